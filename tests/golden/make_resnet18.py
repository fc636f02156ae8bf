"""Makes resnet18.json with PyTorch: ResNet-18 in its CIFAR form, float64, on parameters that both sides can draw.

python tests/golden/make_resnet18.py          (needs torch; made with 2.13)
"""

import json
import pathlib
import zlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """The parameter at `path` in jtrain's layout: kernels [height, width, in, out]."""
    noise = np.random.RandomState(zlib.crc32(path.encode())).standard_normal(shape)
    if path.endswith("kernel"):
        return noise * np.sqrt(2.0 / np.prod(shape[:-1]))
    return 0.1 * noise + (1.0 if path.endswith("scale") else 0.0)


def images() -> np.ndarray:
    return np.random.RandomState(1).standard_normal((4, 17, 16, 3))  # an odd size: strides must agree there too


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        if stride != 1 or inside != outside:
            self.shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(outside)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + (self.shortcut_norm(self.shortcut(x)) if hasattr(self, "shortcut") else x))


class ResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        width = 64
        for stage, outside in enumerate((64, 128, 256, 512), 1):
            for block in (1, 2):
                stride = 2 if stage > 1 and block == 1 else 1
                self.add_module(f"stage{stage}_block{block}", Block(width, outside, stride))
                width = outside
        self.head = nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        for stage in (1, 2, 3, 4):
            for block in (1, 2):
                x = getattr(self, f"stage{stage}_block{block}")(x)
        return self.head(x.mean(dim=(2, 3)))


def fill(model: nn.Module) -> None:
    for name, module in model.named_modules():
        path = name.replace(".", "/")
        if isinstance(module, nn.Conv2d):
            o, i, h, w = module.weight.shape
            module.weight.data = torch.tensor(draw(f"{path}/kernel", (h, w, i, o)).transpose(3, 2, 0, 1).copy())
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data = torch.tensor(draw(f"{path}/scale", tuple(module.weight.shape)))
            module.bias.data = torch.tensor(draw(f"{path}/bias", tuple(module.bias.shape)))
        elif isinstance(module, nn.Linear):
            o, i = module.weight.shape
            module.weight.data = torch.tensor(draw(f"{path}/kernel", (i, o)).T.copy())
            module.bias.data = torch.tensor(draw(f"{path}/bias", (o,)))


def main() -> None:
    torch.set_num_threads(1)
    model = ResNet18().double()
    fill(model)
    x = torch.tensor(images().transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        train = model.train()(x)
        evaluation = model.eval()(x)
    golden = {
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_logits": train.tolist(),
        "eval_logits": evaluation.tolist(),
        "stage3_block1/norm1/mean": model.stage3_block1.norm1.running_mean[:16].tolist(),
        "stem_norm/var": model.stem_norm.running_var[:16].tolist(),
    }
    path = pathlib.Path(__file__).with_name("resnet18.json")
    path.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
