"""Train ``tiny``.

    python -m training.train --data DATA --out RUN --minutes 60

Runs two processes of one thread each (measured to be faster than one of two), writes
``RUN/checkpoint.pt`` every few minutes and goes on from it when started again. First CTC alone, on
short windows, with a frame-wise cross-entropy to a linear alignment that fades; when CTC has
learned the pieces, the transducer is switched on (jointly from scratch it does not learn to hear).
"""

from __future__ import annotations

import argparse
import io
import math
import time
from pathlib import Path

import sentencepiece
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F

from training.data import TAIL, Batch, Batches, Clips
from training.loss import tdt_loss
from training.model import LogMel, Model, Shape, normalise

PROCESSES = 2
ALIGN_STEPS = 600
TDT_RAMP = 150
CTC_READY = 1.5  # Nats per piece at which the transducer is switched on.
CTC_KEPT = 0.2
GENTLE = 0.8  # Of the time; afterwards there is little noise and no SpecAugment.
SAVE_SECONDS = 120


def pieces(data: Path, count: int) -> Path:
    """Train the vocabulary on the clips' texts, once."""
    path = data / "tokenizer.model"
    if not path.exists():
        texts = [row["text"] for row in Clips(data).rows]
        trained = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=trained, vocab_size=count,
            model_type="bpe", character_coverage=1.0, bos_id=-1, eos_id=-1, pad_id=-1, unk_id=0,
            hard_vocab_limit=True, normalization_rule_name="identity", minloglevel=2,
        )  # fmt: skip
        path.write_bytes(trained.getvalue())
    return path


class Losses:
    """The three losses of a batch."""

    def __init__(self, model: Model, tokenizer: sentencepiece.SentencePieceProcessor) -> None:
        self.model, self.tokenizer, self.mel = model, tokenizer, LogMel()
        self.blank = model.shape.pieces

    def __call__(
        self, batch: Batch, align: bool, transduce: bool, mask: bool
    ) -> dict[str, torch.Tensor]:
        """Compute CTC's loss, and those of the alignment and the transducer where wanted."""
        features = self.features(batch, mask)
        encoded, _ = self.model.encoder(features)
        ids = [self.tokenizer.encode(text) for text in batch.texts]
        lengths = torch.tensor([len(item) for item in ids])
        width = max(1, int(lengths.max()))
        targets = torch.tensor([item + [0] * (width - len(item)) for item in ids])
        scores = self.model.ctc(encoded)
        losses = {
            "ctc": F.ctc_loss(
                scores.log_softmax(-1).transpose(0, 1), targets,
                torch.full((len(ids),), encoded.shape[1]), lengths,
                blank=self.blank, reduction="sum", zero_infinity=True,
            ) / lengths.sum().clamp(min=1)
        }  # fmt: skip
        if align:
            labels = self._alignment(batch, encoded.shape[1])
            losses["align"] = F.cross_entropy(scores.flatten(0, 1), labels.flatten())
        if transduce:
            logits = self.model.joint(encoded, self.model.predictor(targets))
            losses["tdt"] = tdt_loss(logits, targets, lengths, self.blank)
        return losses

    def features(self, batch: Batch, mask: bool) -> torch.Tensor:
        """Normalised log-mel, with light SpecAugment where wanted."""
        with torch.no_grad():
            mel = self.mel(torch.from_numpy(batch.audio))
            if batch.tail:
                heard = mel[:, : -TAIL // 160]
                mean, deviation = heard.mean(1, keepdim=True), heard.std(1, keepdim=True)
                mel = (mel - mean) / (deviation + 1e-5)
            else:
                mel = normalise(mel)
            for item in mel if mask else ():
                if torch.rand(()) < 0.5:
                    low = int(torch.randint(0, 70, ()))
                    item[:, low : low + int(torch.randint(1, 10, ()))] = 0
                if torch.rand(()) < 0.3:
                    first = int(torch.randint(0, len(item) - 12, ()))
                    item[first : first + int(torch.randint(1, 10, ()))] = 0
            return mel

    def _alignment(self, batch: Batch, frames: int) -> torch.Tensor:
        """Pieces spread evenly over their clip, blank elsewhere: int64 [batch, frames]."""
        labels = torch.full((len(batch.texts), frames), self.blank)
        for row, spans in zip(labels, batch.spans, strict=True):
            for start, end, text in spans:
                samples = batch.audio.shape[1]
                first, last = start * frames // samples, end * frames // samples
                ids = torch.tensor(self.tokenizer.encode(text))
                places = torch.linspace(0, len(ids) - 1e-3, last - first).long()
                row[first:last] = ids[places]
        return labels


def work(rank: int, arguments: argparse.Namespace) -> None:
    """One of the processes."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{_meeting(arguments.out)}", rank=rank, world_size=PROCESSES
    )
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(arguments.seed)
    tokenizer = sentencepiece.SentencePieceProcessor(
        model_file=str(arguments.data / "tokenizer.model")
    )
    model = Model(Shape(pieces=tokenizer.get_piece_size(), width=arguments.width))
    average = Model(model.shape)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 1e-2}, {"params": others, "weight_decay": 0.0}],
        lr=arguments.rate, betas=(0.9, 0.98),
    )  # fmt: skip
    step, spent, switched = 0, 0.0, -1
    ctc = math.inf
    checkpoint = arguments.out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        step, spent, switched, ctc = (saved[k] for k in ("step", "spent", "switched", "ctc"))
    else:
        average.load_state_dict(model.state_dict())
    losses = Losses(model, tokenizer)
    batches = Batches(Clips(arguments.data), seed=arguments.seed * 1000 + rank + 7919 * step)
    if rank == 0:
        print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    begun, saved_at, seen = time.monotonic() - spent, time.monotonic(), 0
    recent: dict[str, float] = {}
    done = 0.0  # Of the time; all processes agree on it, so that they stop at the same step.
    while done < 1:
        model.train()
        align = max(0.0, 1 - step / ALIGN_STEPS)
        gentle = done > GENTLE
        batch = batches(short=switched < 0, gentle=gentle)
        found = losses(batch, align > 0, switched >= 0, mask=not gentle)
        if switched >= 0:
            ramp = min(1.0, (step - switched + 1) / TDT_RAMP)
            kept = CTC_KEPT + (1 - CTC_KEPT) * (1 - ramp)
            loss = kept * found["ctc"] + ramp * found["tdt"]
        else:
            loss = found["ctc"] * (1 - 0.9 * align)
            if align:
                loss = loss + 2 * align * found["align"]
        optimiser.zero_grad()
        loss.backward()
        flat = torch.cat(
            [(p.grad if p.grad is not None else torch.zeros_like(p)).flatten()
             for p in model.parameters()]
            + [torch.tensor([found["ctc"].item(), time.monotonic() - begun])]
        )  # fmt: skip
        distributed.all_reduce(flat)
        flat /= PROCESSES
        ctc = float(flat[-2]) if math.isinf(ctc) else 0.97 * ctc + 0.03 * float(flat[-2])
        done = float(flat[-1]) / (60 * arguments.minutes)
        place = 0
        for p in model.parameters():
            p.grad = flat[place : place + p.numel()].view_as(p).clone()
            place += p.numel()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        warm = min(1.0, (step + 1) / 300)
        for group in optimiser.param_groups:
            group["lr"] = arguments.rate * warm * (0.005 + 0.5 * (1 + math.cos(math.pi * done)))
        optimiser.step()
        if switched < 0 and ctc < CTC_READY and step > ALIGN_STEPS:
            switched = step
        with torch.no_grad():
            keep = min(0.998, 1 - 1 / (step + 2))
            for name, value in average.state_dict().items():
                new = model.state_dict()[name]
                if value.is_floating_point():
                    value.lerp_(new, 1 - keep)
                else:
                    value.copy_(new)
        step += 1
        seen += len(batch.texts) * PROCESSES
        for name, value in found.items():
            recent[name] = 0.95 * recent.get(name, value.item()) + 0.05 * value.item()
        if rank == 0 and step % 50 == 0:
            shown = " ".join(f"{k} {v:.3f}" for k, v in recent.items())
            minutes = (time.monotonic() - begun) / 60
            print(f"step {step} {minutes:.1f} min seen {seen} {shown}", flush=True)
        if rank == 0 and time.monotonic() - saved_at > SAVE_SECONDS:
            saved_at = time.monotonic()
            save(checkpoint, model, average, optimiser, step, saved_at - begun, switched, ctc)
    if rank == 0:
        save(checkpoint, model, average, optimiser, step, time.monotonic() - begun, switched, ctc)
    distributed.destroy_process_group()


def save(path, model, average, optimiser, step, spent, switched, ctc) -> None:  # type: ignore[no-untyped-def]
    """Write a checkpoint whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(
        {
            "model": model.state_dict(), "average": average.state_dict(), "shape": model.shape,
            "optimiser": optimiser.state_dict(), "step": step, "spent": spent,
            "switched": switched, "ctc": ctc,
        },
        part,
    )  # fmt: skip
    part.replace(path)


def _meeting(out: Path) -> Path:
    """The file through which the processes find each other."""
    return (out / "processes").absolute()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    pieces(arguments.data, Shape().pieces)
    _meeting(arguments.out).unlink(missing_ok=True)  # That of a run that was stopped.
    multiprocessing.spawn(work, (arguments,), nprocs=PROCESSES)


if __name__ == "__main__":
    main()
