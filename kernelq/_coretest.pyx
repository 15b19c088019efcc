"""Doors for the tests: each nogil function of the core, callable from Python. Never shipped.

The parts under test are included as _core.pyx includes them; the doors to each stand in
tests/doors/, one file per part. `guard.pxi` comes first: it places input right before an
unreadable page.
"""

include "core/target.pxi"
include "core/http1.pxi"
include "core/forwarded.pxi"
include "core/cache_fields.pxi"
include "core/cache_rules.pxi"
include "core/cache_keys.pxi"
include "core/cache_store.pxi"
include "core/cache_evict.pxi"
include "core/cache_flush.pxi"
include "core/route.pxi"
include "core/route_doors.pxi"

include "../tests/doors/guard.pxi"
include "../tests/doors/http1.pxi"
include "../tests/doors/forwarded.pxi"
include "../tests/doors/cache_rules.pxi"
include "../tests/doors/channel.pxi"
include "../tests/doors/stress.pxi"
include "../tests/doors/cache_store.pxi"
include "../tests/doors/cache_stress.pxi"
include "../tests/doors/route.pxi"
