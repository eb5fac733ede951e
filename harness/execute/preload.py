"""What the fork server of workers imports, once for all of them.

harness.cli is what a worker would import again as the main script. The rest is what a cell imports,
some of it on first use. These are a million objects that stay: nobody looks for garbage among them,
neither now nor in a worker (`harness.execute.local.work`).
"""

import gc

gc.disable()

import torch._dynamo  # noqa: E402, F401

import harness.cli  # noqa: E402
import harness.train.cell  # noqa: E402, F401

gc.enable()
