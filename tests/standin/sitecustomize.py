"""Puts the stand-ins of tests/fakes.py where the extension modules will be, in every process of a
test.
"""

import sys
import types
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))


class _Finder:
    """Finds kernelq._core and kernelq._worker in the stand-ins."""

    def find_spec(self, name, path=None, target=None):
        if name not in ("kernelq._core", "kernelq._worker"):
            return None
        import importlib.machinery

        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        import fakes

        module = types.ModuleType(spec.name)
        module.__dict__.update(vars(fakes))
        return module

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, _Finder())
