"""Makes torchvision_resnet18.safetensors and .npz with PyTorch: a narrow ResNet-18 with torchvision's names and layout.

python tests/golden/make_torchvision_resnet18.py                          (needs torch and safetensors; made with 2.13)

torchvision.models.resnet18 itself has 11.7 million parameters; this module differs from it only in its width, 4, so
that the file stays small. The names and the order of layers are those of torchvision/models/resnet.py.

To see that torch takes what jtrain writes, start a run from the file, export it, and give the export to

python tests/golden/make_torchvision_resnet18.py --check weights.safetensors

which loads it with strict=True and compares its outputs with those in the .npz.

python tests/golden/make_torchvision_resnet18.py --names                  (needs torchvision too; made with 0.29.2)

writes torchvision_names.json: the names and shapes of torchvision's own ResNet-34 and -50.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

WIDTH, CLASSES = 4, 5
HERE = pathlib.Path(__file__)


class BasicBlock(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.downsample = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inside = WIDTH
        for stage in range(4):
            outside = WIDTH * 2**stage
            blocks = BasicBlock(inside, outside, 1 if stage == 0 else 2), BasicBlock(outside, outside, 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            inside = outside
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inside, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def images() -> np.ndarray:
    """[batch, height, width, channels], of odd sizes: strides and padding must agree there too."""
    return np.random.RandomState(1).standard_normal((3, 43, 38, 3)).astype(np.float32)


def logits(model: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.tensor(images().transpose(0, 3, 1, 2).copy())).numpy()


def fill(model: nn.Module) -> None:
    """Gives norms and their statistics values unlike those that they start with."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
            nn.init.normal_(module.running_mean, 0.0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            module.num_batches_tracked.fill_(7)


def names() -> None:
    import torchvision

    golden = {"torchvision": torchvision.__version__}
    with torch.device("meta"):  # names and shapes alone: nothing is allocated
        for name in ("resnet34", "resnet50"):
            state = getattr(torchvision.models, name)().state_dict()
            golden[name] = {key: list(tensor.shape) for key, tensor in state.items()}
    HERE.with_name("torchvision_names.json").write_text(json.dumps(golden) + "\n")


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:] == ["--names"]:
        return names()
    torch.manual_seed(0)
    model = ResNet18()
    if sys.argv[1:2] == ["--check"]:
        print(model.load_state_dict(load_file(sys.argv[2]), strict=True))
        difference = np.abs(logits(model) - np.load(HERE.with_name("torchvision_resnet18.npz"))["logits"]).max()
        print(f"largest difference of the outputs: {difference:.2g}")
        sys.exit(int(difference > 1e-4))
    fill(model)
    save_file(model.state_dict(), HERE.with_name("torchvision_resnet18.safetensors"))
    np.savez_compressed(HERE.with_name("torchvision_resnet18.npz"), inputs=images(), logits=logits(model))


if __name__ == "__main__":
    main()
