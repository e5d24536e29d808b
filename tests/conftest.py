"""What holds for every test: one thread, and the same examples each time, so that a red run can be repeated."""

import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
torch.set_num_threads(1)
