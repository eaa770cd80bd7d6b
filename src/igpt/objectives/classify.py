"""Fine-tuning: a linear classifier on the mean of the final features, trained together with the pre-training task."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from igpt.batch import TokenBatch
from igpt.model.transformer import Transformer
from igpt.objectives.objective import ConfigureOptimizers, Objective
from igpt.objectives.tasks import Task, predict_classes


class ClassificationObjective(Objective):
    """loss = generative_weight * L_pretraining + classification_weight * L_classes (section 3.3; the paper: 1 and 1).

    The head starts at zero. A masked model is judged by the modal vote over `votes` masks.
    """

    def __init__(
        self,
        model: Transformer,
        configure: ConfigureOptimizers,
        task: Task,
        n_classes: int,
        generative_weight: float = 1.0,
        classification_weight: float = 1.0,
        votes: int = 5,
    ) -> None:
        super().__init__(model, configure, task)
        self.class_head = nn.Linear(model.config.n_embd, n_classes)
        nn.init.zeros_(self.class_head.weight)
        nn.init.zeros_(self.class_head.bias)
        self.generative_weight = generative_weight
        self.classification_weight = classification_weight
        self.votes = votes
        self.validation_means["accuracy"] = MeanMetric()

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        nats, hidden = self.task.run(self.model, batch)
        class_logits = self.class_head(hidden.mean(dim=1))
        class_loss = F.cross_entropy(class_logits.float(), batch.labels)
        accuracy = (class_logits.argmax(-1) == batch.labels).float().mean()
        loss = self.generative_weight * nats.mean() + self.classification_weight * class_loss
        self.collect(loss=loss, nats=nats.mean(), class_loss=class_loss, accuracy=accuracy)
        return loss

    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        right = predict_classes(self.model, self.class_head, self.task, batch, self.votes) == batch.labels
        self.validation_means["accuracy"].update(right[batch.labels >= 0].float())
