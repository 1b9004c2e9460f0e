"""Knowledge distillation for PyTorch: a small model takes over from a big one.

>>> import understudy as us
>>> method = us.methods.kd(student, teacher, temperature=4, alpha=0.9)          # doctest: +SKIP
>>> result = us.train(method, (images, labels), us.Settings(epochs=20))          # doctest: +SKIP
"""

import lazy_loader

__version__ = "0.1.0"

# What is public stands in __init__.pyi, and is imported when it is asked for: torch takes seconds, which the command
# line's help and completion do not have.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
