from collections.abc import Sequence
def next_time(schedule: Sequence[int], now: float) -> float: return now+1e6
