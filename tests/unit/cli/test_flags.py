"""Flags are the fields of the configuration, and a wrong command line is told in one line."""

import inspect
import typing

import pytest

from latentmas_ray.cli.main import main
from latentmas_ray.cli.options import flag_of, run_options
from latentmas_ray.config import RunConfig, make_config

BAD_COMMAND_LINES = [
    (["eval", "--batch-size", "x"], ["--batch-size", "'x'"]),
    (["eval", "--batch-size", "0"], ["--batch-size", "'0'"]),
    (["eval", "--batch-size", "4097"], ["--batch-size", "'4097'"]),
    (["eval", "--batch-size", "1.5"], ["--batch-size", "'1.5'"]),
    (["eval", "--batch-size"], ["--batch-size", "argument"]),
    (["eval", "--batchsize", "4"], ["--batchsize", "--batch-size"]),
    (["eval", "--latent-steps", "-1"], ["--latent-steps", "'-1'"]),
    (["eval", "--latent-steps", "--realign"], ["--latent-steps", "'--realign'"]),
    (["eval", "--latent-steps", "a\nb"], ["--latent-steps", "'a\\nb'"]),
    (["eval", "--method", "telepathy"], ["--method", "'telepathy'", "'latent'"]),
    (["eval", "--dtype", "int8"], ["--dtype", "'int8'", "'bfloat16'"]),
    (["eval", "--device", "tpu"], ["--device", "'tpu'"]),
    (["eval", "--transport", "pigeon"], ["--transport", "'pigeon'", "'object_store'"]),
    (["eval", "--runtime", "spark"], ["--runtime", "'spark'", "'local'"]),
    (["eval", "--temperature", "-0.1"], ["--temperature", "'-0.1'"]),
    (["eval", "--temperature", "nan"], ["--temperature", "'nan'"]),
    (["eval", "--temperature", "warm"], ["--temperature", "'warm'"]),
    (["eval", "--top-p", "0"], ["--top-p", "'0'"]),
    (["eval", "--top-p", "1.01"], ["--top-p", "'1.01'"]),
    (["eval", "--max-new-tokens", "0"], ["--max-new-tokens", "'0'"]),
    (["eval", "--seed", "-1"], ["--seed", "'-1'"]),
    (["demo", "--limit", "1"], ["--limit", "'1'", "at least 2"]),
    (["eval", "--trace", "3"], ["--trace", "'3'", "--output"]),
    (["eval", "--limit", "0"], ["--limit", "'0'"]),
    (["eval", "--replicas", "many"], ["--replicas", "'many'"]),
    (["eval", "--memory-in-flight", "4 apples"], ["--memory-in-flight", "4 apples"]),
    (["eval", "--task", ""], ["--task", "''"]),
    (["eval", "--model", ""], ["--model", "''"]),
    (["eval", "--topology", "  "], ["--topology"]),
    (["eval", "--resume"], ["--resume", "output"]),
    (["eval", "--realign=maybe"], ["--realign"]),
    (["eval", "--thoughts", "telepathy"], ["--thoughts: got 'telepathy'", "realign, identity, soft, blend, noise"]),
    (
        ["eval", "--thoughts", "soft", "--no-realign"],
        ["--realign: got 'False'", "thoughts is soft; give one of"],
    ),
    (["ask", "why?", "--thoughts", "realign", "--no-realign"], ["--realign: got 'False'", "thoughts is realign"]),
    (["eval", "--thoughts", "identity", "--realign"], ["--realign: got 'True'", "thoughts is identity"]),
    (["eval", "gsm8k"], ["gsm8k"]),
    (["evaluate"], ["evaluate", "eval"]),
    (["fly"], ["fly"]),
    (["--verbose", "eval"], ["--verbose"]),
    (["ask"], ["QUESTION"]),
    (["ask", " "], ["QUESTION"]),
    (["ask", "why", "not"], ["not"]),
    (["ask", "why?", "--max-new-tokens", "lots"], ["--max-new-tokens", "'lots'"]),
    (["demo", "--limit", "some"], ["--limit", "'some'"]),
    (["doctor", "--address"], ["--address"]),
    (["eval", "--pp", "2"], ["--pp: got '2'; a model is not divided into pipeline stages", "tp (2, 4, 8", "spread"]),
    (["ask", "why?", "-pp", "2"], ["--pp: got '2'"]),
    (["eval", "--pipeline-parallel-size=4"], ["--pipeline-parallel-size: got '4'", "with tp"]),
    (["plan", "--pipeline-parallel", "2"], ["--pipeline-parallel: got '2'"]),
]


@pytest.mark.parametrize(("args", "named"), BAD_COMMAND_LINES, ids=lambda value: " ".join(value)[:40])
def test_bad_command_line_is_one_line_and_exit_code_2(
    args: list[str], named: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    for word in named:
        assert word in err


@pytest.mark.parametrize("name", RunConfig.model_fields)
def test_every_field_is_a_flag_of_eval_with_its_own_default(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--help"]) == 0
    text = " ".join(capfd.readouterr().out.split())
    assert f" {flag_of(name)} " in text
    field = RunConfig.model_fields[name]
    if field.annotation is not bool and not field.default_factory and field.default is not None:
        assert f"[default: {field.default}]" in text.split(f" {flag_of(name)} ")[1].split(" --")[0]


def test_flags_left_out_give_the_default_configuration() -> None:
    seen: list[RunConfig] = []

    @run_options()
    def command(config: RunConfig) -> None:
        seen.append(config)

    command(**{name: parameter.default for name, parameter in inspect.signature(command).parameters.items()})
    assert seen == [make_config({})]


def test_fixed_values_replace_defaults_and_reach_fields_without_a_flag() -> None:
    seen: list[RunConfig] = []

    @run_options("limit", "seed", fixed={"limit": 3, "model": "other"})
    def command(config: RunConfig, loud: bool = False) -> None:
        seen.append(config)

    parameters = inspect.signature(command).parameters
    assert list(parameters) == ["loud", "context", "limit", "seed"]
    assert parameters["limit"].default == "3"
    command(limit="3", seed="7", loud=True)
    assert seen == [make_config({"limit": 3, "seed": 7, "model": "other"})]


def test_switches_come_in_the_combined_form_only_where_on_is_the_default() -> None:
    @run_options("overlap", "resume")
    def command(config: RunConfig) -> None: ...

    forms = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if name == "context":
            continue
        _, option = typing.get_args(parameter.annotation)
        forms[name] = option.default
    assert forms == {"overlap": "--overlap/--no-overlap", "resume": "--resume"}


def test_without_arguments_the_help_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capfd.readouterr().out
    for command in ("ask", "eval", "compare", "demo", "doctor"):
        assert f"\n  {command} " in out


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capfd.readouterr().out.startswith("latentmas 0.")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--handover", "recipe"], "handover=recipe is now transfer=recompute"),
        (["--transfer", "recipe"], "transfer=recipe is now transfer=recompute"),
    ],
)
def test_old_flags_are_read_with_one_line(flags: list[str], told: str, capfd: pytest.CaptureFixture[str]) -> None:
    # A task that is not there: nothing is started.
    assert main(["eval", "--runtime", "local", "--limit", "1", "--task", "no-such-task", *flags]) == 2
    notes, error, _ = capfd.readouterr().err.split("\n")
    assert notes == f"note: {told}; the next version refuses it"
    assert "no-such-task" in error


def test_old_flags_are_not_in_the_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--help"]) == 0
    assert "--handover" not in capfd.readouterr().out
