"""The architectures that there are: names, papers, defaults and choices, without the library that runs them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """What is known of an architecture before it is built.

    Parameters
    ----------
    builder
        Module of `unetcli.models`, and what in it builds the network from a `Plan`.
    paper
        Authors and year.
    ndim
        Axes of the images that it was made for; each takes 2 and 3.
    features
        Channels of each level by default, full resolution first.
    about
        One line.
    skips
        Skip connections to choose from, the default first; none where there are no such connections.
    deep_supervision
        Whether intermediate results can be trained, too.
    """

    builder: str
    paper: str
    ndim: int
    features: tuple[int, ...]
    about: str
    skips: tuple[str, ...] = ("concat", "add", "attention")
    deep_supervision: bool = False


ARCHITECTURES: dict[str, Architecture] = {
    "unet": Architecture(
        "unet.unet", "Ronneberger, Fischer, Brox 2015", 2, (32, 64, 128, 256, 512),
        "contracting and expansive path, joined by skip connections",
    ),
    "unet3d": Architecture(
        "unet.unet3d", "Çiçek et al. 2016", 3, (64, 128, 256, 512),
        "U-Net of volumes, whose channels double before each pooling",
    ),
    "attention-unet": Architecture(
        "unet.unet", "Oktay et al. 2018", 2, (32, 64, 128, 256, 512),
        "U-Net that weights its skip connections by additive attention", skips=("attention",),
    ),
    "unet++": Architecture(
        "unetpp.NestedUNet", "Zhou et al. 2018", 2, (32, 64, 128, 256, 512),
        "U-Nets of every depth in one, joined by dense skip connections", skips=("concat",), deep_supervision=True,
    ),
    "resunet": Architecture(
        "unet.residual_unet", "Zhang, Liu, Wang 2018", 2, (64, 128, 256, 512),
        "pre-activated residual blocks, strided convolutions, no up-convolution", skips=("concat", "attention"),
    ),
    "vnet": Architecture(
        "vnet.vnet", "Milletari, Navab, Ahmadi 2016", 3, (16, 32, 64, 128, 256),
        "residual blocks of one to three wide convolutions, strided convolutions, PReLU",
    ),
    "sliding-window": Architecture(
        "sliding_window.SlidingWindow", "Ciresan et al. 2012", 2, (48, 48, 48, 48, 200),
        "classifier of the patch around each pixel, computed for all pixels at once", skips=(),
    ),
}  # fmt: skip
"""Name to architecture."""
