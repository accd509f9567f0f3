"""Networks that between them hold every structure that a cut has to follow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.core.random import generator, seeded
from compress.graph.groups import ChannelGroup
from compress.models.resnet_cifar import resnet_cifar
from tests.toys import ToyNet

SMALL = {
    "toy": (1, 8),
    "resnet20": (3, 16),
    "plain": (2, 8),
    "resnext": (3, 32),
    "shufflenet": (3, 32),
    "convnext": (3, 16),
    "vit": (3, 8),
    "encoder": (3, 8),
    "swin": (3, 24),
    "swin_v2": (3, 24),
    "maxvit": (3, 32),
}
TORCHVISION = ("resnet18", "mobilenet_v2", "vgg11_bn", "densenet121", "efficientnet_b0")


class Plain(nn.Module):
    """Concatenation, flatten, depthwise and transposed convolution, PReLU, gate, bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 6, 3, padding=1)
        self.act = nn.PReLU(6)
        self.b = nn.Conv2d(6, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(10, 6, 2, stride=2)
        self.depthwise = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6)
        self.gate = nn.Linear(6, 6)
        self.linear = nn.Linear(6 * 64, 3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        a = self.act(self.a(x_BCHW))
        y = torch.cat([a, torch.relu(self.b(a))], 1)
        y = torch.relu(self.depthwise(torch.relu(self.up(y))))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3))))[:, :, None, None]
        return self.linear(y.flatten(1))


class Encoder(nn.Module):
    """torch's own transformer behind a convolution, each layer with its norms at another end."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, stride=4)
        self.encoder = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, norm_first=is_first)
                for is_first in (False, True)
            )
        )
        self.linear = nn.Linear(12, 5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.linear(self.encoder(self.patch(x_BCHW).flatten(2).transpose(1, 2)).mean(1))


def _of_torchvision(name: str) -> nn.Module:
    """Return one of torchvision's networks, or a small one of a family."""
    from torchvision import models
    from torchvision.models import convnext, maxvit, resnet, shufflenetv2, swin_transformer

    def swin(**options: object) -> nn.Module:
        return models.SwinTransformer([2, 2], 12, [2, 2], [3, 6], [4, 4], num_classes=5, **options)

    small = {
        "resnext": lambda: models.ResNet(resnet.Bottleneck, [1, 1, 1, 1], 5, groups=4, width_per_group=4),
        "shufflenet": lambda: shufflenetv2.ShuffleNetV2([2, 3, 1], [8, 16, 32, 64, 32], 5),
        "convnext": lambda: models.ConvNeXt(
            [convnext.CNBlockConfig(8, 12, 2), convnext.CNBlockConfig(12, None, 1)], num_classes=5
        ),
        "vit": lambda: models.VisionTransformer(8, 4, 2, 3, 12, 20, num_classes=5),
        "swin": swin,
        "swin_v2": lambda: swin(
            block=swin_transformer.SwinTransformerBlockV2, downsample_layer=swin_transformer.PatchMergingV2
        ),
        "maxvit": lambda: maxvit.MaxVit((32, 32), 8, 4, [8, 16], [1, 1], 4, 0.0, num_classes=5),
    }
    return small[name]() if name in small else getattr(models, name)(num_classes=10)


def network(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network with random weights and batch statistics, in evaluation mode, and an input."""
    with seeded(1, name):
        if name == "toy":
            module: nn.Module = ToyNet(1, 3)
        elif name == "plain":
            module = Plain()
        elif name == "encoder":
            module = Encoder()
        elif name == "resnet20":
            module = resnet_cifar((3, 16, 16), 10, depth=20)
        else:
            module = _of_torchvision(name)
        for parameter in module.parameters():
            if bool((parameter == parameter.flatten()[0]).all()):
                parameter.data += 0.2 * torch.randn(parameter.shape)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.2)
                layer.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, 0, 0.2)
    channels, pixels = SMALL.get(name, (3, 64))
    return module.eval(), torch.randn(2, channels, pixels, pixels, generator=generator(2, name))


def random_masks(groups: tuple[ChannelGroup, ...], seed: int) -> dict[str, Tensor]:
    """Keep a random number of random channels of each group, at least one."""
    draw = generator(seed, "masks")
    kept = {}
    for group in groups:
        mask_C = torch.rand(group.num_channels, generator=draw) < 0.2 + 0.7 * torch.rand(1, generator=draw)
        mask_C[int(torch.randint(group.num_channels, (1,), generator=draw))] = True
        kept[group.name] = mask_C
    return kept
