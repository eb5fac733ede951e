"""The modules that the workers' fork server imports once, for all of them.

They are those that a cell needs, including those that it would import on first use. Their million
objects stay for good, so the garbage collector skips them here and in the workers
(`harness.execute.local.serve_cells`).
"""

import gc

from harness.common.signals import leave_to_parent

leave_to_parent()  # the command handles them, and ends this process and the workers
gc.disable()

import torch._dynamo  # noqa: E402, F401

import harness.train.cell  # noqa: E402, F401

gc.enable()
