def resident_bytes(pid: int) -> int: return 0
def private_bytes(pid: int) -> int: return 0
def memory_kib(pid: int) -> tuple[int,int]: return 0,0
def cpu_ns(pid: int) -> int: return 0
