"""What is said of a device's context: a card's own, a stated one, and one that is assumed."""

import json

import pytest

from memplanner.cli.main import main

ASSUMED = "context assumed, the largest of the bundled NVIDIA cards' (710.19 MiB); --context states another"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    out, err = capsys.readouterr()
    return code, " ".join(out.split()), err


@pytest.mark.parametrize(
    ("device", "row"),
    [
        (("--gpu", "24GiB"), "context 710.19 MiB assumed, the largest of the bundled NVIDIA cards'"),
        (("--gpu", "24GiB", "--context", "0"), "context 0 B CUDA's own, outside the allocator, as stated"),
        (("--gpu", "t4", "--context", "1GiB"), "context 1.00 GiB CUDA's own, outside the allocator, as stated"),
        (("--gpu", "rtx4090"), "context 710.19 MiB CUDA's own, outside the allocator device"),
    ],
)
def test_check_says_whose_word_the_context_is(
    device: tuple[str, ...], row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "check", "llama-60m", *device)
    assert code == 0
    assert row in out
    is_assumed = device == ("--gpu", "24GiB")
    assert (ASSUMED in out) == is_assumed
    _, out, _ = run(capsys, "check", "llama-60m", *device, "--format", "json")
    assert json.loads(out)["context_assumed"] == is_assumed


@pytest.mark.parametrize("words", [("fit", "--maximize", "batch-size"), ("compare",), ("explain",)])
def test_every_answer_about_a_size_says_so(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    command, *more = words
    assert ASSUMED in run(capsys, command, "llama-60m", "--gpu", "2GiB", *more)[1]


def test_a_failing_plan_says_it_among_what_it_is_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("check", "llama-60m", "--gpu", "1GiB", "--format", "junit")
    assert "context 710.19 MiB (assumed)" in run(capsys, *words)[1]
    assert "(assumed)" not in run(capsys, *words, "--context", "600MiB")[1]


def test_nothing_fits_a_device_that_is_smaller_than_its_context(capsys: pytest.CaptureFixture[str]) -> None:
    said = "the context alone, 710.19 MiB, is above the limit: no step fits, whatever it needs"
    code, out, err = run(capsys, "check", "llama-60m", "--gpu", "500MiB")
    assert (code, err) == (1, "")
    assert out.startswith("DOES NOT FIT: 1.29 GiB of 500.00 MiB on a 500MiB device, 818.19 MiB too much")
    assert said in out
    code, out, err = run(capsys, "fit", "llama-60m", "--gpu", "500MiB", "--maximize", "batch-size")
    assert (code, err) == (1, "")
    assert out.startswith("NO BATCH SIZE FITS 500MiB: 1 already needs 1.29 GiB")
    assert said in out
