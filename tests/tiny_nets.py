"""Networks that behave, and networks that do not: what a run must survive."""

import os
import signal
import time

import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self, in_channels=4, out_channels=3, width=2):
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(in_channels, width, 3, padding=1), nn.Conv3d(width, out_channels, 1))

    def forward(self, x):
        return self.body(x)


class Wider(Tiny):
    def __init__(self, in_channels=4, out_channels=3):
        super().__init__(in_channels, out_channels, width=4)


def on_real_data(x):
    """False while the network is only counted, on tensors without values."""
    return type(x) is torch.Tensor and x.device.type != "meta"


class Killed(Tiny):
    """Its process is killed in the middle of a forward, as the out-of-memory killer would."""

    def forward(self, x):
        if on_real_data(x):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


class Crashes(Tiny):
    def forward(self, x):
        if on_real_data(x):
            raise RuntimeError("a bug of its own")
        return super().forward(x)


class OutOfMemory(Tiny):
    def forward(self, x):
        if on_real_data(x):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return super().forward(x)


class Sleeps(Tiny):
    """A forward that does not end."""

    def forward(self, x):
        if on_real_data(x):
            time.sleep(600)
        return super().forward(x)


class DiesWhenBuilt(Tiny):
    """Takes even the counting process with it."""

    def __init__(self):
        super().__init__()
        os._exit(7)


class Inaccurate(Tiny):
    """Far off in reduced precision."""

    def forward(self, x):
        y = super().forward(x)
        return y * 2 if y.dtype == torch.bfloat16 else y


class Broken(Tiny):
    """One voxel in eight is not a number."""

    def forward(self, x):
        y = super().forward(x)
        if on_real_data(x):
            y[:, :, ::2, ::2, ::2] = float("nan")
        return y


class Counts(Tiny):
    """Counts its forwards, and is another network each time."""

    def __init__(self, in_channels=4, out_channels=3):
        super().__init__(in_channels, out_channels)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if on_real_data(x):
            self.seen += 1
        return super().forward(x) + self.seen


class Drops(Tiny):
    """Its dropout is on in eval mode too."""

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5, training=True)


class Hungry(Tiny):
    """Takes 1.6 GB in a forward, which it gives back."""

    def forward(self, x):
        block = torch.ones(400_000_000, device=x.device)
        return super().forward(x) + block[0]


class Classifies(nn.Module):
    def __init__(self, in_channels=4, out_channels=3):
        super().__init__()
        self.head = nn.Linear(in_channels, out_channels)

    def forward(self, x):
        return self.head(x.mean((2, 3, 4)))


class Lists(Tiny):
    """Deep supervision: a list of outputs. It also prints, which must not disturb anything."""

    def forward(self, x):
        print("a network that talks")
        return [super().forward(x), x]


class NeedsArguments(nn.Module):
    def __init__(self, width):
        super().__init__()


class Reads(nn.Module):
    """Reads the labels of `tests.data_sets` off the intensities: background, 60 above it, 120 above it."""

    def __init__(self, in_channels=1, out_channels=3):
        super().__init__()
        self.smooth = nn.Conv3d(in_channels, 1, 3, padding=1, bias=False, padding_mode="replicate")
        self.head = nn.Conv3d(1, out_channels, 1)
        levels = torch.linspace(-0.25, 5.65, out_channels)  # z-scores of the three
        with torch.no_grad():
            self.smooth.weight.fill_(0.0)
            self.smooth.weight[:, 0, 1, 1, 1] = 1.0
            self.head.weight.copy_((2 * levels).reshape(-1, 1, 1, 1, 1))
            self.head.bias.copy_(-(levels**2))

    def forward(self, x):
        return self.head(self.smooth(x))


class Unused(Reads):
    """Holds weights that its forward never uses, as MONAI's ViT does."""

    def __init__(self, in_channels=1, out_channels=3):
        super().__init__(in_channels, out_channels)
        self.spare = nn.Linear(3, 3)


class Asserts(Tiny):
    """Checks its size as much public code does."""

    def __init__(self, in_channels=4, out_channels=3, spatial=(32, 32, 32)):
        assert all(side % 32 == 0 for side in spatial)
        super().__init__(in_channels, out_channels)


class NeedsValues(Tiny):
    """Cannot be built without memory, and not at all at sides above 32."""

    def __init__(self, in_channels=4, out_channels=3, spatial=(32, 32, 32)):
        super().__init__(in_channels, out_channels)
        if torch.zeros(1).item() or max(spatial) > 32:
            raise RuntimeError("a bug of its own")


class Branches(Tiny):
    """Chooses what it does by a tensor's value, so no exporter can trace it."""

    def forward(self, x):
        y = super().forward(x)
        return -y if float(y.sum()) > 0 else y


class Offers(Tiny):
    """Offers a form for inference, which is itself."""

    def for_inference(self, form="eager"):
        return self


class OffersAnother(Tiny):
    """Offers a form for inference that is another network."""

    def for_inference(self, form="eager"):
        return Tiny().eval()
