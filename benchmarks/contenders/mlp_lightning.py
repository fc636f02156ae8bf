"""Lightning: a LightningModule under a Trainer that logs every so often; no checkpoints, no bar, batches at hand."""

import logging
import tempfile
import warnings
from typing import Any

import lightning
import torch
from contenders import common, mlp_torch
from lightning.pytorch.loggers import CSVLogger


class Module(lightning.LightningModule):
    """The MLP, its loss and its optimizer."""

    def __init__(self, case: dict[str, Any]) -> None:
        """Args:
        case: of all contenders.
        """
        super().__init__()
        self.case, self.net = case, mlp_torch.mlp(case)
        self.loss_fn = torch.nn.CrossEntropyLoss()
        self.turns: common.Turns | None = None
        self.losses: list[torch.Tensor] = []

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        """The loss of a batch, logged."""
        inputs, targets = batch
        loss = self.loss_fn(self.net(inputs), targets)
        self.log("loss", loss)
        self.losses.append(loss.detach())
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, number: int) -> None:
        """Pauses at log points."""
        if len(self.losses) == self.case["log_every"]:
            mean = float(torch.stack(self.losses).mean())
            self.losses = []
            assert self.turns is not None
            self.turns.point(mean)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=self.case["lr"], momentum=self.case["momentum"])


def prepare(case: dict[str, Any]) -> common.Paused:
    """A Trainer that pauses at its log points."""
    torch.set_num_threads(case["threads"])
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    inputs, targets = map(torch.from_numpy, common.batches(case))
    # As many batches an epoch as make its beginning and its end cost nothing.
    parts = list(zip(inputs.split(case["batch"]), targets.long().split(case["batch"]), strict=True)) * 100
    module = Module(case)

    def train(turns: common.Turns) -> None:
        module.turns = turns
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_epochs=-1, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, log_every_n_steps=case["log_every"], logger=CSVLogger(tempfile.mkdtemp()),
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(parts, batch_size=None))  # type: ignore[arg-type]

    versions = {"lightning": lightning.__version__, "torch": torch.__version__, "threads": str(case["threads"])}
    return common.Paused(case, versions, common.Turns(train))
