import pytest
import torch
from toys import NORMALISE, frozen, images, network

from utils.data.batches import Batches
from utils.distillation.cached_teacher import cached
from utils.distillation.ensemble import Ensemble, mix_logits
from utils.run import load_teachers
from utils.runtime.errors import UserError


def logits(seed: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("mix", ["mean", "confidence"])
def test_probabilities_are_mixed_and_not_logits(mix):
    teachers = [logits(0), logits(1, 300.0), logits(2).half()]
    p = torch.stack([each.double().softmax(1) for each in teachers])
    weights = p.amax(2, keepdim=True) if mix == "confidence" else torch.ones(3, 6, 1)
    expected = (p * weights).sum(0) / weights.sum(0)
    mixed = mix_logits(teachers, mix)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.softmax(1).double(), expected, rtol=1e-3, atol=1e-6)


def test_one_teacher_twice_is_that_teacher():
    for mix in ("mean", "confidence"):
        torch.testing.assert_close(mix_logits([logits(0)] * 2, mix), logits(0).log_softmax(1))


def test_live_and_cached_teachers_give_the_same_mixture(tmp_path):
    batches = Batches(images(70), NORMALISE, 32, 0, views=2)
    members = tuple(frozen(network(seed=seed), sha256=f"{seed}" * 64) for seed in (1, 2))
    stored = tuple(cached(each, batches, "data", 4, tmp_path, 1.0, lambda: None)[0] for each in members)
    live, stored = (Ensemble(each, members, "mean") for each in (members, stored))
    for epoch in range(3):
        stored.set_view(batches.view_number(epoch))
        for batch in batches.epoch(epoch):
            torch.testing.assert_close(stored(batch).logits, live(batch).logits, rtol=2e-3, atol=2e-3)
    assert len(list(tmp_path.glob("*/view*.pt"))) == 4


def test_who_teaches_is_part_of_the_identity_in_order_and_with_the_mix():
    one, other = (frozen(network(seed=seed), sha256=f"{seed}" * 64) for seed in (1, 2))
    pairs = [Ensemble(pair, pair, mix) for pair, mix in (((one, other), "mean"), ((other, one), "mean"))]
    assert pairs[0].sha256 != pairs[1].sha256 != one.sha256
    assert pairs[0].settings == {"teacher_mix": "mean"}


def test_a_teacher_that_is_named_twice_is_refused(monkeypatch):
    class Config:
        teacher_paths, teacher_normalisation, teacher, teacher_mix = ("a.pt", "b.pt", "c.pt"), None, "cnn", "mean"

    hashes = dict(zip(Config.teacher_paths, "121", strict=True))
    monkeypatch.setattr("utils.run.load_teacher", lambda path, *_: frozen(network(), sha256=hashes[path] * 64))
    with pytest.raises(UserError, match=r"the same weights: a\.pt, b\.pt, c\.pt"):
        load_teachers(Config, "logits", None, None, None)
    hashes["c.pt"] = "3"
    assert len(load_teachers(Config, "logits", None, None, None).members) == 3


def test_what_sets_all_teachers_apart_is_said_once():
    members = tuple(frozen(network(), note=note) for note in ("of another program", "", "of another program"))
    assert Ensemble(members, members, "mean").note == "of another program"


def test_features_of_several_teachers_are_refused_with_the_fix():
    class Config:
        teacher_paths, teacher_normalisation = ("a.pt", "b.pt"), None

    with pytest.raises(UserError, match="only the logits can be mixed") as caught:
        load_teachers(Config, "features", None, None, None)
    assert "--method" in caught.value.hint
