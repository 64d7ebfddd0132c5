"""What kernels refuse, and how they are launched."""

from __future__ import annotations

import pytest

from kvperf.errors import KvperfError
from kvperf.kernel.catalogue import KERNELS, kernel
from kvperf.kernel.geometry import Shape
from kvperf.kernel.launch import plan
from kvperf.kernel.splits import choose_splits, fill_slots, whole
from kvperf.kernel.support import support
from kvperf.kernel.trial import Case, architecture, small


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("flash", "fp16", 96, 4, "90"), "flash does not take head_dim 96", "it takes 64, 128, 256"),
        (("flash", "fp32", 128, 4, "90"), "flash does not take fp32 queries", "bf16 and fp16"),
        (("flash", "fp16", 128, 17, "90"), "up to 16 query heads per KV head, not 17", "use 1 to 16"),
        (("int8_kv", "fp16", 128, 16, "90"), "up to 8 query heads per KV head, not 16", "int8_mma"),
        (("fp8_kv", "fp16", 128, 16, "90"), "up to 8 query heads per KV head, not 16", "use 1 to 8"),
        (("flash", "fp16", 576, 16, "90"), "flash does not take head_dim 576", "mla takes 576"),
        (("int8_kv", "fp16", 576, 16, "90"), "int8_kv does not take head_dim 576", "mla takes 576"),
        (("flash", "fp16", 128, 4, "75"), "flash needs sm_80 or later", "sm_80 and later"),
        (("fp8_kv", "fp16", 128, 4, "80"), "fp8_kv needs sm_89 or later, not sm_80", "int8_kv"),
        (("bulk_copy", "fp16", 128, 4, "89"), "bulk_copy needs sm_90 or later, not sm_89", "async_ring"),
        (("mla", "fp16", 128, 4, "90"), "mla does not take head_dim 128", "576"),
        (("mla", "fp16", 576, 129, "90"), "up to 128", "use 1 to 128"),
        (("three_pas", "fp16", 128, 4, "90"), "unknown kernel 'three_pas'", "did you mean 'three_pass'?"),
    ],
)
def test_what_is_refused(arguments: tuple[str, str, int, int, str], message: str, hint: str) -> None:
    with pytest.raises(KvperfError) as caught:
        support(*arguments)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_mla_takes_more_heads() -> None:
    assert support("mla", "bf16", 576, 128, "80").max_group == 128


def test_a_row_of_scores_beyond_shared_memory_is_refused_with_the_limit() -> None:
    most = (227 * 1024 - (512 + 8192 + 256 + 4096)) // 4
    Case("cached_attention", seq=most).plan  # noqa: B018
    with pytest.raises(KvperfError) as caught:
        Case("cached_attention", seq=most + 1).plan  # noqa: B018
    assert "232448" in caught.value.message
    assert f"S can be {most} at most" in caught.value.hint
    Case("flash", seq=1_000_000).plan  # noqa: B018


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 6}, "6 heads cannot share 4 KV heads"),
        ({"seq": 0}, "seq is 0"),
        ({"q_len": 9, "seq": 8}, "9 query tokens, 8 cached ones"),
        ({"seq": 2**31}, "2147483648 cached tokens: kernels number them with 32 bits"),
    ],
)
def test_impossible_shapes(changes: dict[str, int], message: str) -> None:
    sizes = {"batch": 1, "heads": 8, "kv_heads": 4, "head_dim": 128, "seq": 100, **changes}
    with pytest.raises(KvperfError, match=message):
        Shape(**sizes)  # type: ignore[arg-type]


def test_only_tensor_cores_take_several_query_tokens() -> None:
    with pytest.raises(KvperfError, match="one query token"):
        Case("flash", q_len=2).plan  # noqa: B018


def test_only_pages_take_a_length_for_each_sequence() -> None:
    with pytest.raises(KvperfError, match="sequences of one length"):
        Case("vector_loads", batch=2, seq=9, lengths=(9, 3)).plan  # noqa: B018


@pytest.mark.parametrize("lengths", [(9,), (9, 0), (9, 10), (8, 3)])
def test_lengths_fit_the_batch_and_the_longest(lengths: tuple[int, ...]) -> None:
    with pytest.raises(KvperfError, match="of 2 sequences with at most 9 tokens"):
        Case("paged", batch=2, seq=9, lengths=lengths).plan  # noqa: B018


def test_a_page_must_hold_whole_tiles() -> None:
    shape = Shape(batch=1, heads=4, kv_heads=4, head_dim=64, seq=100, page_tokens=16)
    with pytest.raises(KvperfError, match="does not hold whole tiles of 64"):
        plan("paged", shape, architecture("90"), 132)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("flash", {"batch": 70000}, "the grid of flash is 70000 blocks along y: the limit is 65535"),
        ("vector_loads", {"batch": 70000}, "the grid of vector_loads is 70000 blocks along z: the limit is 65535"),
        ("split_kv", {"heads": 70000, "kv_heads": 70000}, "70000 blocks along y"),
        ("persistent", {"batch": 2**30}, "32-bit numbers: the limit is 2147483647"),
        ("mla", {"head_dim": 576}, "MLA has one KV head, the latent, not 4"),
    ],
)
def test_launches_that_no_gpu_runs(name: str, sizes: dict[str, int], message: str) -> None:
    shape = Shape(**{"batch": 1, "heads": 8, "kv_heads": 4, "head_dim": 128, "seq": 100, **sizes})  # type: ignore[arg-type]
    with pytest.raises(KvperfError) as caught:
        plan(name, shape, architecture("90"), 132)
    assert message in caught.value.message


def test_a_grid_at_its_limit_is_launched() -> None:
    shape = Shape(batch=65535, heads=8, kv_heads=4, head_dim=128, seq=100)
    assert plan("vector_loads", shape, architecture("90"), 132).launches[0].grid == (1, 4, 65535)


@pytest.mark.parametrize(
    ("blocks", "tiles", "slots", "splits"),
    [
        (106, 64, 132, 1),  # 80 % of the slots are busy already
        (8, 4, 132, 1),  # 4 tiles are not worth a split
        (105, 64, 132, 5),  # 525 of 528 slots, 13 tiles each but 12 in the last
        (8, 64, 528, 64),  # 57 would give 43 in truth, which leave a third of the slots empty
        (32, 128, 528, 16),  # 15 and 16 run in one wave: 16 of 8 tiles are done before 15 of 9
        (8, 128, 132, 16),
        (1, 64, 132, 64),  # even the most leave half of the slots empty
    ],
)
def test_the_split_heuristic(blocks: int, tiles: int, slots: int, splits: int) -> None:
    assert choose_splits(blocks, tiles, slots) == splits
    assert whole(tiles, splits) == splits


def test_the_rule_keeps_85_percent_of_what_whole_tiles_allow() -> None:
    for blocks in (1, 7, 8, 30, 64, 100):
        for tiles in (5, 43, 64, 129):
            for slots in (132, 264, 528):
                shares = {}
                for n in {whole(tiles, n) for n in range(1, min(128, slots, tiles) + 1)}:
                    rounds = -(-blocks * n // slots)
                    shares[n] = blocks * tiles / (slots * rounds * -(-tiles // n))
                found = choose_splits(blocks, tiles, slots)
                if blocks < 0.8 * slots:
                    assert shares[found] >= 0.85 * max(shares.values())
                assert shares[fill_slots(blocks, tiles, slots)] >= 0.95 * max(shares.values())


def test_persistent_blocks_fill_the_slots_and_no_more() -> None:
    """Where there are more pieces than slots, no slot has a whole sequence more than another."""
    shape = Shape(batch=20, heads=32, kv_heads=8, head_dim=128, seq=4096)
    planned = plan("persistent", shape, architecture("90"), 132, blocks_per_sm=1)
    assert planned.launches[0].grid == (132, 1, 1)
    pieces = 160 * planned.splits
    assert pieces > 132
    assert -(-pieces // 132) * planned.split_tokens <= 1.1 * 160 * 4096 / 132
    few = plan("persistent", shape, architecture("90"), 132, blocks_per_sm=1, splits=1)
    assert (few.splits, few.launches[0].grid) == (1, (132, 1, 1))
    alone = Shape(batch=1, heads=32, kv_heads=8, head_dim=128, seq=64)
    assert plan("persistent", alone, architecture("90"), 132).launches[0].grid == (8, 1, 1)


@pytest.mark.parametrize("name", [n for n, k in KERNELS.items() if "split-KV" in k.strategies])
@pytest.mark.parametrize("seq", [1, 64, 1000, 4097, 100_000])
def test_no_split_is_empty(name: str, seq: int) -> None:
    for splits in (None, 1, 2, 7, 128):
        planned = small(name, seq=seq, splits=splits, sms=132).plan
        assert (planned.splits - 1) * planned.split_tokens < seq <= planned.splits * planned.split_tokens
        assert planned.split_tokens % planned.geometry.tokens == 0


def test_the_ladder_is_a_ladder() -> None:
    for chosen in KERNELS.values():
        assert chosen.source.is_file()
        assert chosen.against is None or list(KERNELS).index(chosen.against) < list(KERNELS).index(chosen.name)
        text = chosen.source.read_text()
        assert all(phrase in text for phrase in ("What it does:", "What it changes", "What it buys:"))
    assert kernel("flash").against == "cached_attention"
