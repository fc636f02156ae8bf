"""Makes models.npz with PyTorch: small residual and recurrent networks, float64, on parameters both sides can draw.

python tests/golden/make_models.py          (needs torch; made with 2.13)
"""

import pathlib

import numpy as np
import torch
from make_resnet18 import draw, fill
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Of He et al. 2016: basic or bottleneck, with projection or padding."""

    def __init__(self, inside: int, width: int, stride: int, bottleneck: bool, pad: bool):
        super().__init__()
        sizes = [(1, 1), (3, stride), (1, 1)] if bottleneck else [(3, stride), (3, 1)]
        outside = 4 * width if bottleneck else width
        widths = [inside, *[width] * (len(sizes) - 1), outside]
        for i, (size, step) in enumerate(sizes, 1):
            self.add_module(f"conv{i}", nn.Conv2d(widths[i - 1], widths[i], size, step, size // 2, bias=False))
            self.add_module(f"norm{i}", nn.BatchNorm2d(widths[i]))
        self.layers, self.stride, self.outside, self.pad = len(sizes), stride, outside, pad
        if not pad and (stride != 1 or inside != outside):
            self.shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(outside)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for i in range(1, self.layers + 1):
            y = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.layers else y
        if hasattr(self, "shortcut"):
            x = self.shortcut_norm(self.shortcut(x))
        elif self.pad:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.outside - x.shape[1]))
        return F.relu(y + x)


class ResNet(nn.Module):
    def __init__(self, blocks, width, *, imagenet=False, bottleneck=False, pad=False, outputs=10):
        super().__init__()
        self.stem = nn.Conv2d(3, width, *((7, 2, 3) if imagenet else (3, 1, 1)), bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        self.names, inside = [], width
        for stage, count in enumerate(blocks):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                made = Block(inside, width * 2**stage, stride, bottleneck, pad)
                self.names.append(f"stage{stage + 1}_block{block + 1}")
                self.add_module(self.names[-1], made)
                inside = made.outside
        self.head = nn.Linear(inside, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.stem_norm(self.stem(x))))
        for name in self.names:
            x = getattr(self, name)(x)
        return self.head(x.mean(dim=(2, 3)))


class WideBlock(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        if stride != 1 or inside != outside:
            self.shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = F.relu(self.norm1(x))
        y = self.conv2(F.relu(self.norm2(self.conv1(first))))
        return y + (self.shortcut(first) if hasattr(self, "shortcut") else x)


class WideResNet(nn.Module):
    def __init__(self, blocks: int, widen: int, outputs: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.names, inside = [], 16
        for stage in range(3):
            for block in range(blocks):
                outside = 16 * widen * 2**stage
                self.names.append(f"stage{stage + 1}_block{block + 1}")
                self.add_module(self.names[-1], WideBlock(inside, outside, 2 if stage > 0 and block == 0 else 1))
                inside = outside
        self.head_norm, self.head = nn.BatchNorm2d(inside), nn.Linear(inside, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for name in self.names:
            x = getattr(self, name)(x)
        return self.head(F.relu(self.head_norm(x)).mean(dim=(2, 3)))


RESIDUAL = {
    "imagenet": (lambda: ResNet((1, 1), 4, imagenet=True, bottleneck=True, outputs=5), (2, 33, 30, 3)),
    "padded": (lambda: ResNet((1, 1), 4, pad=True, outputs=5), (2, 9, 8, 3)),
    "wide": (lambda: WideResNet(1, 1, outputs=5), (2, 9, 8, 3)),
}
COUNTED = {
    "resnet18": lambda: ResNet((2, 2, 2, 2), 64, imagenet=True, outputs=1000),
    "resnet34": lambda: ResNet((3, 4, 6, 3), 64, imagenet=True, outputs=1000),
    "resnet50": lambda: ResNet((3, 4, 6, 3), 64, imagenet=True, bottleneck=True, outputs=1000),
    "resnet101": lambda: ResNet((3, 4, 23, 3), 64, imagenet=True, bottleneck=True, outputs=1000),
    "resnet152": lambda: ResNet((3, 8, 36, 3), 64, imagenet=True, bottleneck=True, outputs=1000),
    "resnet20": lambda: ResNet((3, 3, 3), 16, pad=True),
    "resnet110": lambda: ResNet((18, 18, 18), 16, pad=True),
    "wide_resnet28_10": lambda: WideResNet(4, 10),
    "wide_resnet16_8": lambda: WideResNet(2, 8),
}


def residual(make, shape) -> dict[str, np.ndarray]:
    """Logits of both modes, and the gradient of Σ sin(logits) in training with respect to the images."""
    model = make().double()
    fill(model)
    x = torch.tensor(np.random.RandomState(1).standard_normal(shape).transpose(0, 3, 1, 2).copy(), requires_grad=True)
    evaluation = model.eval()(x)
    train = model.train()(x)
    train.sin().sum().backward()
    gradient = x.grad.numpy().transpose(0, 2, 3, 1).astype(np.float32)
    return {"eval": evaluation.detach().numpy(), "train": train.detach().numpy(), "gradient": gradient}


def recurrent(kind) -> dict[str, np.ndarray]:
    """Two layers: torch's parameters, their gradients of Σ sin(outputs), and the outputs [batch, time, hidden]."""
    model = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](3, 5, num_layers=2, batch_first=True).double()
    for name, leaf in model.named_parameters():
        leaf.data = torch.tensor(draw(f"{kind}/{name}", tuple(leaf.shape)) * 8.0)  # gates far from linear
    x = torch.tensor(np.random.RandomState(2).standard_normal((4, 7, 3)))
    outputs, _ = model(x)
    outputs.sin().sum().backward()
    kept = {"inputs": x.numpy(), "outputs": outputs.detach().numpy()}
    for name, leaf in model.named_parameters():
        kept |= {f"params/{name}": leaf.detach().numpy(), f"gradients/{name}": leaf.grad.numpy()}
    return kept


def main() -> None:
    torch.set_num_threads(1)
    golden = {"torch": np.array(torch.__version__)}
    with torch.device("meta"):  # counts alone: nothing is allocated
        for name, make in COUNTED.items():
            golden[f"parameters/{name}"] = np.array(sum(p.numel() for p in make().parameters()))
    for name, (make, shape) in RESIDUAL.items():
        golden |= {f"{name}/{key}": value for key, value in residual(make, shape).items()}
    for kind in ("lstm", "gru"):
        golden |= {f"{kind}/{key}": value for key, value in recurrent(kind).items()}
    np.savez_compressed(pathlib.Path(__file__).with_name("models.npz"), **golden)


if __name__ == "__main__":
    main()
