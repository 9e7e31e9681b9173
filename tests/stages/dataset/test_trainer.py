"""The ecosystem's own loops: transformers.Trainer and plain PyTorch on a smoothed dataset, as the documentation shows them."""

import pickle

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from textsmooth.schemas.smoothing import Smoothing
from textsmooth.stages.dataset.collate import SmoothedCollator
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.training.soft_embedding import SoftEmbedding, smooth_inputs


class NewEpoch(TrainerCallback):
    """Tells the collator which epoch it is."""

    def __init__(self, collate):
        self.collate, self.epochs = collate, []

    def on_epoch_begin(self, args, state, control, **_):
        self.collate.set_epoch(int(state.epoch))
        self.epochs.append(self.collate.epoch)


@pytest.fixture
def student(kit):
    torch.manual_seed(1)
    return AutoModelForSequenceClassification.from_config(kit.config("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


@pytest.mark.parametrize("workers", [0, 2])
def test_transformers_trainer_trains_on_soft_ids_and_evaluates_on_plain_ones(smoothed, student, tmp_path, workers):
    train, validation = SmoothedDataset(smoothed, "train"), SmoothedDataset(smoothed, "validation")
    collate = SmoothedCollator.for_dataset(train, smoothing=Smoothing(lam=0.2, draws=4))
    smooth_inputs(student, vocab_size=train.manifest.teacher["vocab_size"])
    smoothed_steps = {True: [], False: []}  # by whether the student trains: does embedded text reach its encoder, or ids
    student.bert.register_forward_pre_hook(
        lambda module, args, kwargs: smoothed_steps[module.training].append(kwargs["inputs_embeds"] is not None), with_kwargs=True
    )
    new_epoch = NewEpoch(collate)
    args = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=32,
        num_train_epochs=6,
        learning_rate=5e-3,
        lr_scheduler_type="constant",
        eval_strategy="epoch",
        save_strategy="no",
        dataloader_num_workers=workers,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    assert args.remove_unused_columns  # the default: it drops columns of rows that are dictionaries, ours are not
    trainer = Trainer(
        model=student,
        args=args,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collate.to_dict,
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())},
        callbacks=[new_epoch],
    )
    trainer.train()
    scores = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
    assert scores[-1] > 0.9, scores
    assert new_epoch.epochs == list(range(6))
    assert smoothed_steps[True] == [True] * 6 * 10
    assert smoothed_steps[False] and not any(smoothed_steps[False])


def test_a_plain_loop(smoothed, student):
    dataset = SmoothedDataset(smoothed, "train")
    collate = SmoothedCollator.for_dataset(dataset, smoothing=Smoothing(lam=0.2))
    soft = SoftEmbedding(student.get_input_embeddings(), vocab_size=dataset.manifest.teacher["vocab_size"])
    stream = dataset.stream(collate, batch_size=32)
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3)
    losses = []
    for epoch in range(5):
        stream.set_epoch(epoch)
        for batch in stream:
            loss = student(inputs_embeds=soft(batch.soft), attention_mask=batch.attention_mask, labels=batch.labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 2


def test_what_loader_workers_are_sent_is_small(smoothed):
    dataset = SmoothedDataset(smoothed, "train")
    dataset.batch(np.arange(300))
    collate = SmoothedCollator.for_dataset(dataset, smoothing=Smoothing(lam="uniform"))
    block = pickle.loads(pickle.dumps(dataset))[5]  # noqa: S301
    found = pickle.loads(pickle.dumps(collate.to_dict))([block])  # noqa: S301
    assert all(torch.equal(value, collate.to_dict(block)[name]) for name, value in found.items())
