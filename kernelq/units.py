"""Units: times are nanoseconds, sizes are bytes."""

MS = 1_000_000
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
