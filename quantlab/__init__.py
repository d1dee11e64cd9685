"""quantlab composes a task, a model, a quantizer and a method into one run that can be reproduced, resumed and
compared.
"""

__version__ = "0.1.0"
