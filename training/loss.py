"""The TDT loss, with its gradient from the posteriors of the arcs.

Xu et al., "Efficient Sequence Transduction by Jointly Predicting Tokens and Durations", 2023:
token and duration distributions are normalised separately. From node (t, u) a token arc leads to
(t + d, u + 1) while t + d < T, a blank arc with d >= 1 to (t + d, u); the last blank lands on T.
Arcs of duration 0 stay in a column t and are summed by a log-cumulative-sum over u, so that only t
is looped over. ``python -m training.loss`` checks it against enumeration of every path.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SIGMA = 0.05
"""NeMo's logit under-normalisation: each token or blank costs a little, so jumps are preferred."""

_NEVER = -1e30


class TDTLoss(torch.autograd.Function):
    """Mean negative log-likelihood per target piece."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, lengths: Tensor, blank: int) -> Tensor:
        """Compute the loss.

        Args:
            ctx: autograd's.
            logits: float32 [batch, T, U + 1, blank + 1 + durations].
            targets: int64 [batch, U], padded with any piece.
            lengths: int64 [batch], pieces of each item.
            blank: Id of the blank.
        """
        batch, frames, rows, _ = logits.shape
        tokens = logits[..., : blank + 1].log_softmax(-1)
        durations = logits[..., blank + 1 :].log_softmax(-1)
        most = durations.shape[-1] - 1
        padded = torch.nn.functional.pad(targets, (0, 1))
        index = padded[:, None, :, None].expand(-1, frames, -1, 1)
        say = (tokens.gather(-1, index)[..., 0] - SIGMA).double()
        # Nothing is said after an item's last piece.
        over = torch.arange(rows)[None] >= lengths[:, None]
        say.masked_fill_(over[:, None], _NEVER)
        wait = (tokens[..., blank] - SIGMA).double()
        span = durations.double()

        # In-column sums of d = 0 token arcs from row 0 to row u.
        stay = say + span[..., 0]
        steps = torch.nn.functional.pad(stay[..., :-1].clamp(min=-1e4), (1, 0)).cumsum(-1)

        def shifted_down(x: Tensor) -> Tensor:
            return torch.nn.functional.pad(x[:, :-1], (1, 0), value=_NEVER)

        def shifted_up(x: Tensor) -> Tensor:
            return torch.nn.functional.pad(x[:, 1:], (0, 1), value=_NEVER)

        alpha = torch.full((frames, batch, rows), _NEVER, dtype=torch.double)
        for t in range(frames):
            arrivals = []
            if t == 0:
                start = torch.full((batch, rows), _NEVER, dtype=torch.double)
                start[:, 0] = 0
                arrivals.append(start)
            for d in range(1, min(most, t) + 1):
                s = t - d
                arrivals.append(alpha[s] + wait[:, s] + span[:, s, :, d])
                arrivals.append(shifted_down(alpha[s] + say[:, s] + span[:, s, :, d]))
            entering = torch.stack(arrivals).logsumexp(0)
            alpha[t] = (entering - steps[:, t]).logcumsumexp(-1) + steps[:, t]

        beta = torch.full((frames + 1, batch, rows), _NEVER, dtype=torch.double)
        beta[frames].scatter_(1, lengths[:, None], 0.0)
        for t in reversed(range(frames)):
            leaving = []
            for d in range(1, min(most, frames - t) + 1):
                leaving.append(wait[:, t] + span[:, t, :, d] + beta[t + d])
                if t + d < frames:
                    leaving.append(say[:, t] + span[:, t, :, d] + shifted_up(beta[t + d]))
            total = torch.stack(leaving).logsumexp(0)
            reached = (total + steps[:, t]).flip(-1).logcumsumexp(-1).flip(-1)
            beta[t] = reached - steps[:, t]

        likelihood = beta[0, :, 0]
        pieces = lengths.sum().clamp(min=1)
        loss = -likelihood.sum() / pieces

        if logits.requires_grad or ctx.needs_input_grad[0]:
            waits = torch.zeros_like(wait)
            says = torch.zeros_like(say)
            spans = torch.zeros_like(span)
            first = alpha.transpose(0, 1) - likelihood[:, None, None]
            last = torch.nn.functional.pad(beta, (0, 0, 0, 0, 0, most), value=_NEVER)
            last = last.transpose(0, 1)
            after = torch.nn.functional.pad(last[..., 1:], (0, 1), value=_NEVER)
            after[:, frames:] = _NEVER  # A token may not jump past the end.
            for d in range(most + 1):
                base = first + span[..., d]
                said = (base + say + after[:, d : d + frames]).exp()
                says += said
                spans[..., d] += said
                if d:
                    waited = (base + wait + last[:, d : d + frames]).exp()
                    waits += waited
                    spans[..., d] += waited
            visits = (waits + says)[..., None].float()
            grad = torch.empty_like(logits)
            token_grad, duration_grad = grad[..., : blank + 1], grad[..., blank + 1 :]
            torch.mul(tokens.exp(), visits, out=token_grad)
            token_grad[..., blank] -= waits.float()
            token_grad.scatter_add_(-1, index, -says.float()[..., None])
            torch.mul(durations.exp(), visits, out=duration_grad)
            duration_grad -= spans.float()
            ctx.save_for_backward(grad / pieces)
        return loss.float()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        """The saved gradient, scaled."""
        (grad,) = ctx.saved_tensors
        return grad * outputs[0], None, None, None


def tdt_loss(logits: Tensor, targets: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """Mean negative log-likelihood per piece; arguments as :meth:`TDTLoss.forward`."""
    loss: Tensor = TDTLoss.apply(logits, targets, lengths, blank)
    return loss


def _enumerate(logits: Tensor, target: list[int], blank: int) -> Tensor:
    """Log-likelihood of one item by walking every path; differentiable by autograd."""
    frames = logits.shape[0]
    tokens = logits[..., : blank + 1].log_softmax(-1) - SIGMA
    durations = logits[..., blank + 1 :].log_softmax(-1)
    ends: list[Tensor] = []

    def walk(t: int, u: int, score: Tensor) -> None:
        for d in range(durations.shape[-1]):
            here = score + durations[t, u, d]
            if d and t + d < frames:
                walk(t + d, u, here + tokens[t, u, blank])
            elif t + d == frames and u == len(target):
                ends.append(here + tokens[t, u, blank])
            if u < len(target) and t + d < frames:
                walk(t + d, u + 1, here + tokens[t, u, target[u]])

    walk(0, 0, logits.new_zeros(()))
    return torch.stack(ends).logsumexp(0)


def main() -> None:
    """Check loss and gradient against enumeration."""
    torch.manual_seed(0)
    blank, frames, items = 4, 5, [[1, 3, 0], [2]]
    logits = torch.randn(2, frames, 4, blank + 1 + 4, dtype=torch.double, requires_grad=True)
    wanted = -torch.stack(
        [_enumerate(logits[i], target, blank) for i, target in enumerate(items)]
    ).sum() / sum(map(len, items))
    (wanted_grad,) = torch.autograd.grad(wanted, logits)
    targets = torch.tensor([t + [0] * (3 - len(t)) for t in items])
    lengths = torch.tensor([len(t) for t in items])
    loss = tdt_loss(logits.float().detach().requires_grad_(), targets, lengths, blank)
    single = logits.detach().float().requires_grad_()
    (grad,) = torch.autograd.grad(tdt_loss(single, targets, lengths, blank), single)
    print(f"loss {loss.item():.6f}, enumerated {wanted.item():.6f}")
    print(f"largest difference of gradients {(grad - wanted_grad).abs().max().item():.2e}")
    if abs(loss.item() - wanted.item()) > 1e-5 or (grad - wanted_grad).abs().max() > 1e-6:
        raise SystemExit("the loss does not agree with enumeration")


if __name__ == "__main__":
    main()
