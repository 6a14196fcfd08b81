#!/usr/bin/env python3
"""What TRL 1.16 answers for losses and options that the parity cases do not hold.

    pip install torch==2.11.0 transformers==5.17.0 trl==1.16.0
    python generate.py            # writes trl.json beside this file

TRL's own `_compute_loss` and `get_batch_loss_metrics` run in double precision on given logits instead of a model. Each
answer is the loss, the norm of its gradient with respect to the policy's logits, and the metrics.
`conservative`, which TRL no longer has, is computed from its formula.
"""
import json
import random
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

torch.set_default_dtype(torch.float64)
PAIRS, WIDTH, VOCAB = 5, 9, 7
ACCELERATOR = SimpleNamespace(
    device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x, num_processes=1
)


def outputs(logits, labels):
    """The fields of TRL's fused head, for the positions that predict labels[:, 1:]."""
    log_probs = logits[:, :-1].log_softmax(-1)
    target = labels[:, 1:]
    ids = target.clamp(min=0)
    picked = log_probs.gather(-1, ids[..., None]).squeeze(-1) * (target != -100)
    probs = log_probs.exp()
    return SimpleNamespace(
        log_probs=picked,
        entropy=-(probs * log_probs).sum(-1),
        log_sum_sq_probs=(probs**2).sum(-1).log(),
        mean_logits=logits[:, :-1].mean(-1),
        is_top1=logits[:, :-1].argmax(-1) == ids,
        logits=logits,
    )


class Fake(torch.nn.Module):
    """A model that answers with logits that were given to it, call after call."""

    is_gradient_checkpointing = False

    def __init__(self, *logits):
        super().__init__()
        self.logits = list(logits)

    def forward(self, *args, labels=None, **kwargs):
        logits = self.logits.pop(0)
        return outputs(logits, labels) if labels is not None else SimpleNamespace(logits=logits)


def answer(loss, logits, metrics):
    (gradient,) = torch.autograd.grad(loss, logits)
    named = {name: values[-1] for name, values in metrics.items() if name != "num_tokens"}
    return dict(loss=loss.item(), grad_norm=gradient.norm().item(), metrics=named)


def rows(rng, count):
    """Ids, attention and completion masks of right-padded rows."""
    ids = torch.tensor([[rng.randrange(VOCAB) for _ in range(WIDTH)] for _ in range(count)])
    attention, completion = torch.zeros(count, WIDTH, dtype=torch.long), torch.zeros(count, WIDTH, dtype=torch.long)
    for row in range(count):
        prompt, reply = rng.randint(1, 3), rng.randint(1, 6)
        attention[row, : prompt + reply] = 1
        completion[row, prompt : prompt + reply] = 1
    return ids, attention, completion


def logits(count, scale=1.5):
    return (scale * torch.randn(count, WIDTH, VOCAB)).mul(1000).round().div(1000)


DPO = {
    "exo_pair_0.1": dict(loss_type=["exo_pair"], label_smoothing=0.1),
    "robust_0": dict(loss_type=["robust"], beta=0.3),
    "aot_unpaired_smoothed": dict(loss_type=["aot_unpaired"], label_smoothing=0.2),
    "ipo_beta_0.5_js": dict(loss_type=["ipo"], beta=0.5, f_divergence_type="js_divergence"),
    "sigmoid_norm_forward_kl": dict(loss_type=["sigmoid_norm"], beta=2.0, f_divergence_type="forward_kl"),
    "hinge_alpha_2": dict(loss_type=["hinge"], f_divergence_type="alpha_divergence", f_alpha_divergence_coef=2.0),
    "exo_alpha_-0.5": dict(loss_type=["exo_pair"], label_smoothing=0.01, f_divergence_type="alpha_divergence",
                           f_alpha_divergence_coef=-0.5),
    "alpha_1": dict(loss_type=["discopop"], f_divergence_type="alpha_divergence", f_alpha_divergence_coef=1.0),
    "ld_ipo": dict(loss_type=["ipo"], beta=0.4, ld_alpha=0.0),
    "ld_mixture": dict(loss_type=["apo_down", "nca_pair", "sft"], loss_weights=[0.5, 0.25, 2.0], ld_alpha=0.7),
    "ld_aot": dict(loss_type=["aot"], ld_alpha=0.5),
    "wpo_mixture": dict(loss_type=["bco_pair", "sppo_hard"], loss_weights=[1.0, 0.1], beta=0.2, use_weighting=True),
    "wpo_ld_robust": dict(loss_type=["robust"], label_smoothing=0.2, use_weighting=True, ld_alpha=0.3),
    "sft_js": dict(loss_type=["sigmoid", "sft"], f_divergence_type="js_divergence"),
}


def dpo(rng):
    ids, attention, completion = rows(rng, 2 * PAIRS)
    policy = logits(2 * PAIRS)
    reference = policy + logits(2 * PAIRS, 0.3)
    answers = {}
    for name, options in DPO.items():
        options = dict(dict(beta=0.1, label_smoothing=0.0, loss_weights=None, ld_alpha=None, use_weighting=False,
                            f_divergence_type="reverse_kl", f_alpha_divergence_coef=0.5), **options)
        # TRL cuts the exponent of the alpha divergence by a table that has no double precision.
        kind = torch.float32 if options["f_divergence_type"] == "alpha_divergence" else torch.float64
        given = policy.to(kind).requires_grad_()
        model = Fake(given)
        trainer = SimpleNamespace(
            model=model, ref_model=Fake(reference.to(kind)), accelerator=ACCELERATOR, aux_loss_enabled=False,
            precompute_ref_logps=False, args=SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None),
            loss_types=options["loss_type"], loss_weights=options["loss_weights"] or [1.0] * len(options["loss_type"]),
            _metrics=dict(train={}), _total_train_tokens=0, _tp_size=1,
            **{key: options[key] for key in ["beta", "label_smoothing", "ld_alpha", "use_weighting",
                                             "f_divergence_type", "f_alpha_divergence_coef"]},
        )
        trainer._metrics["train"] = Lists()
        inputs = dict(input_ids=ids, attention_mask=attention, completion_mask=completion)
        loss = DPOTrainer._compute_loss(trainer, model, inputs, False)
        answers[name] = dict(options=DPO[name], **answer(loss, given, trainer._metrics["train"]))
    given = policy.clone().requires_grad_()
    sums = outputs(given, ids.masked_fill(completion == 0, -100)).log_probs.sum(1)
    theirs = outputs(reference, ids.masked_fill(completion == 0, -100)).log_probs.sum(1)
    ratios = sums - theirs
    margins = 0.25 * (ratios[:PAIRS] - ratios[PAIRS:])
    loss = -(0.85 * F.logsigmoid(margins) + 0.15 * F.logsigmoid(-margins)).mean()
    answers["conservative"] = dict(options=dict(loss_type=["conservative"], beta=0.25, label_smoothing=0.15),
                                   **answer(loss, given, {}))
    return dict(ids=ids.tolist(), completion_mask=completion.tolist(), policy=policy.tolist(),
                reference=reference.tolist(), answers=answers)


class Lists(dict):
    def __missing__(self, name):
        self[name] = []
        return self[name]


REFERENCE_FREE = {
    "simpo": dict(loss_type="simpo", beta=2.0, simpo_gamma=1.0, cpo_alpha=0.0, label_smoothing=0.0),
    "cpo_simpo": dict(loss_type="simpo", beta=2.5, simpo_gamma=0.4, cpo_alpha=0.5, label_smoothing=0.1),
    "cpo": dict(loss_type="sigmoid", beta=0.1, simpo_gamma=0.5, cpo_alpha=1.0, label_smoothing=0.0),
    "cpo_smoothed": dict(loss_type="sigmoid", beta=0.3, simpo_gamma=0.5, cpo_alpha=0.0, label_smoothing=0.2),
    "cpo_hinge": dict(loss_type="hinge", beta=0.2, simpo_gamma=0.5, cpo_alpha=1.0, label_smoothing=0.0),
    "cpo_ipo": dict(loss_type="ipo", beta=0.4, simpo_gamma=0.5, cpo_alpha=0.3, label_smoothing=0.0),
    "orpo": dict(beta=0.1),
    "orpo_1": dict(beta=1.0),
}


def reference_free(rng):
    ids, attention, completion = rows(rng, 2 * PAIRS)
    policy = logits(2 * PAIRS)
    labels = ids.masked_fill(completion == 0, -100)
    batch = {}
    for side, part in [("chosen", slice(0, PAIRS)), ("rejected", slice(PAIRS, None))]:
        batch[f"{side}_input_ids"], batch[f"{side}_labels"] = ids[part], labels[part]
        batch[f"{side}_attention_mask"] = attention[part]
    answers = {}
    for name, options in REFERENCE_FREE.items():
        kind = CPOTrainer if "loss_type" in options else ORPOTrainer
        trainer = SimpleNamespace(accelerator=ACCELERATOR, is_encoder_decoder=False, aux_loss_enabled=False,
                                  pad_token_id=0, padding_value=0, alpha=0.0, **options)
        for method in ["concatenated_inputs", "get_batch_logps"]:
            setattr(trainer, method, getattr(kind, method))
        for method in ["concatenated_forward", "cpo_loss" if kind is CPOTrainer else "odds_ratio_loss"]:
            setattr(trainer, method, getattr(kind, method).__get__(trainer))
        given = policy.clone().requires_grad_()
        loss, metrics = kind.get_batch_loss_metrics(trainer, Fake(given), batch)
        # These trainers take the mean logit over prompt and padding too.
        metrics = {key: [value] for key, value in metrics.items() if not key.startswith("logits/")}
        if options.get("cpo_alpha") == 0.0:
            del metrics["nll_loss"]
        answers[name] = dict(options=options, **answer(loss, given, metrics))
    return dict(ids=ids.tolist(), attention_mask=attention.tolist(), completion_mask=completion.tolist(),
                policy=policy.tolist(), answers=answers)


KTO = {
    "kto": dict(loss_type="kto", beta=0.1, desirable_weight=1.0, undesirable_weight=1.0),
    "kto_weighted": dict(loss_type="kto", beta=0.5, desirable_weight=1.5, undesirable_weight=0.75),
    "apo_zero_unpaired": dict(loss_type="apo_zero_unpaired", beta=0.2, desirable_weight=1.0, undesirable_weight=1.0),
}


def kto(rng, shift):
    """`shift` moves the policy's mismatched logits, so that the estimate is above or below 0."""
    count = 2 * PAIRS
    ids, attention, completion = rows(rng, count)
    kl_ids, kl_attention, kl_completion = rows(rng, count)
    label = torch.tensor([rng.random() < 0.6 for _ in range(count)])
    policy, kl_policy = logits(count), logits(count)
    reference, kl_reference = policy + logits(count, 0.5), kl_policy + logits(count, 0.5)
    picked = F.one_hot(kl_ids.roll(-1, 1), VOCAB)
    kl_policy = kl_policy + shift * picked
    theirs = outputs(reference, ids.masked_fill(completion == 0, -100)).log_probs.sum(1)
    kl_theirs = outputs(kl_reference, kl_ids.masked_fill(kl_completion == 0, -100)).log_probs.sum(1)
    answers = {}
    for name, options in KTO.items():
        given = policy.clone().requires_grad_()
        model = Fake(kl_policy, given) if options["loss_type"] == "kto" else Fake(given)
        trainer = SimpleNamespace(
            model=model, accelerator=ACCELERATOR, aux_loss_enabled=False, precompute_ref_logps=True,
            calculate_KL=options["loss_type"] == "kto", _metrics=dict(train=Lists()), _total_train_tokens=0,
            _tp_size=1, **options,
        )
        trainer._compute_kl_logps = KTOTrainer._compute_kl_logps.__get__(trainer)
        inputs = dict(input_ids=ids, attention_mask=attention, completion_mask=completion, KL_input_ids=kl_ids,
                      KL_attention_mask=kl_attention, KL_completion_mask=kl_completion, label=label,
                      ref_logps=theirs, ref_KL_logps=kl_theirs)
        loss = KTOTrainer._compute_loss(trainer, model, inputs, False)
        answers[name] = dict(options=options, **answer(loss, given, trainer._metrics["train"]))
    kl_ours = outputs(kl_policy, kl_ids.masked_fill(kl_completion == 0, -100)).log_probs.sum(1)
    return dict(ids=ids.tolist(), completion_mask=completion.tolist(), policy=policy.tolist(), label=label.tolist(),
                reference=theirs.tolist(), mismatched=kl_ours.tolist(), mismatched_reference=kl_theirs.tolist(),
                answers=answers)


if __name__ == "__main__":
    rng = random.Random(0)
    torch.manual_seed(0)
    answers = dict(dpo=dpo(rng), reference_free=reference_free(rng), kto=[kto(rng, 0.5), kto(rng, -0.5)])
    path = Path(__file__).parent / "trl.json"
    path.write_text(json.dumps(answers, separators=(",", ":")) + "\n")
    for name, part in [("dpo", answers["dpo"]), ("reference_free", answers["reference_free"]), *(
            ("kto", part) for part in answers["kto"])]:
        for variant, given in part["answers"].items():
            print(name, variant, given["loss"], given["grad_norm"], given["metrics"].get("kl"))
