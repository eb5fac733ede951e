"""What the fork server of workers imports, once for all of them.

It imports what a cell needs, including what that imports on first use. These are a million objects
that stay for good, so the garbage collector looks at them neither here nor in a worker
(`harness.execute.local.work`).
"""

import gc

gc.disable()

import torch._dynamo  # noqa: E402, F401

import harness.train.cell  # noqa: E402, F401

gc.enable()
