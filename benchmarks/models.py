"""Networks that several benchmarks train, in plain code, for random or loaded weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters (He 2015, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(out + x)


class ResNet20(nn.Module):
    """For images of 32 x 32 and 10 classes (He 2015, section 4.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution beside a shortcut, a convolution where shapes differ (He 2015, figure 5)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _layer(inputs, width)
        self.conv2, self.bn2 = _layer(width, width, 3, stride)
        self.conv3, self.bn3 = _layer(width, 4 * width)
        same = stride == 1 and inputs == 4 * width
        self.shortcut = nn.Identity() if same else nn.Sequential(*_layer(inputs, 4 * width, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNet50(nn.Module):
    """For 1000 classes (He 2015, table 1), the stride in the 3x3 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = _layer(3, 64, 7, 2)
        layers, inputs = [], 64
        for width, repeats, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for number in range(repeats):
                layers.append(Bottleneck(inputs, width, stride if number == 0 else 1))
                inputs = 4 * width
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(2048, 1000)

    def forward(self, x: Tensor) -> Tensor:
        out = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.linear(F.adaptive_avg_pool2d(self.layers(out), 1).flatten(1))


def _layer(inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """Expanded, filtered per channel, projected (Sandler 2018, figure 4)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        expand = [*_layer(inputs, width), nn.ReLU6(inplace=True)] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand,
            *_layer(width, width, 3, stride, width), nn.ReLU6(inplace=True),
            *_layer(width, outputs),
        )  # fmt: skip
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


class MobileNetV2(nn.Module):
    """Of width 1, for 1000 classes (Sandler 2018, table 2)."""

    #: Expansion, channels, repeats, stride.
    SETTING = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        layers, width = [*_layer(3, 32, 3, 2), nn.ReLU6(inplace=True)], 32
        for expansion, outputs, repeats, stride in self.SETTING:
            for number in range(repeats):
                layers.append(InvertedResidual(width, outputs, stride if number == 0 else 1, expansion))
                width = outputs
        self.features = nn.Sequential(*layers, *_layer(width, 1280), nn.ReLU6(inplace=True))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def _heads(x: Tensor, size: int) -> Tensor:
    """[batch, tokens, heads * size] as [batch, heads, tokens, size]."""
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


class EncoderBlock(nn.Module):
    """Attention and two layers with a GELU, each after a norm, beside a shortcut (Dosovitskiy 2020, eqs. 2 and 3)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = width // heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (_heads(part, self.head) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class VisionTransformer(nn.Module):
    """ViT-B/16 for 1000 classes (Dosovitskiy 2020, table 1), or of other sizes."""

    def __init__(self, image: int = 224, width: int = 768, depth: int = 12, heads: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (image // 16) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(depth)))
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.linear(self.norm(self.blocks(x))[:, 0])


class LlamaBlock(nn.Module):
    """One decoder layer, of Llama 3 8B unless said otherwise: [batch, tokens, width] in and out (Touvron 2023).

    RMS norms, rotary positions, keys and values shared by groups of heads, causal attention and a gated SiLU.
    """

    def __init__(
        self, width: int = 4096, hidden: int = 14336, heads: int = 32, shared: int = 8, longest: int = 2048
    ) -> None:
        super().__init__()
        self.head = width // heads
        self.repeats = heads // shared
        self.norm1, self.norm2 = nn.RMSNorm(width, 1e-5), nn.RMSNorm(width, 1e-5)
        self.q, self.out = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(width, shared * self.head, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)
        rates = 500000.0 ** -(torch.arange(0, self.head, 2) / self.head)
        angles = torch.outer(torch.arange(longest), rates).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def _rotate(self, x: Tensor) -> Tensor:
        """Each pair of numbers turned by the angle of its position (Su 2021, eq. 34)."""
        tokens, half = x.shape[-2], self.head // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * self.cos[:tokens] + turned * self.sin[:tokens]

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        q, k, v = (_heads(layer(normed), self.head) for layer in (self.q, self.k, self.v))
        q, k = self._rotate(q), self._rotate(k)
        k, v = (tensor.repeat_interleave(self.repeats, 1) for tensor in (k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        normed = self.norm2(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))
