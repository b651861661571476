"""torch on one thread: its barriers between tiny operations cost more than the operations, on a busy machine most."""

import torch

torch.set_num_threads(1)
