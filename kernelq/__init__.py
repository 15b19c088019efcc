"""kernelq: an application server whose workers may die without a client noticing."""

__version__ = "0.1.0"
