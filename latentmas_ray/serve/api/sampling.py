"""The fields that both kinds of requests have: how an answer is sampled, how it is returned, and ours (`latentmas`)."""

import re
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator

from latentmas_ray.config import MemoryName
from latentmas_ray.config.latent_steps import LATENT_STEPS_FORM, StepsSetting, parse_latent_steps
from latentmas_ray.serve.api.fields import ApiModel, off, refuse, tag

MAX_SAMPLES: Final = 16
MAX_STOPS: Final = 4
_MAX_SEED: Final = 2**63
_MAX_TOKENS: Final = 1_000_000
_MAX_METADATA: Final = 16

ServedMemory = Literal["matched", "prompt-only", "latent-only", "latent-only+sink", "none"]
_MEMORY_FORM: Final = f"it must be one of {', '.join(get_args(ServedMemory))}"
_CONVERSATION: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
CONVERSATION_FORM: Final = "it must have 1 to 64 letters, digits, or characters of _ . : -"
_STOP_FORM: Final = f"it must be text or a list of at most {MAX_STOPS} texts"
_METADATA_FORM: Final = (
    f"it must be an object of at most {_MAX_METADATA} texts (keys of 64, texts of 512 characters at most)"
)


def _check_steps(value: object) -> StepsSetting | None:
    if value is None:
        return None
    try:
        return parse_latent_steps(value)
    except ValueError:
        raise refuse(LATENT_STEPS_FORM) from None


def _check_memory(value: object) -> object:
    if value in get_args(MemoryName) and value not in get_args(ServedMemory):
        raise refuse(f"this control needs a whole task; {_MEMORY_FORM}")
    if value is not None and value not in get_args(ServedMemory):
        raise refuse(_MEMORY_FORM)
    return value


def is_conversation_id(name: str) -> bool:
    """Whether a conversation may be called so."""
    return _CONVERSATION.fullmatch(name) is not None


def _check_lens(lens: bool, info: ValidationInfo) -> bool:
    if lens and not info.data.get("trace", True):
        raise refuse("it must be false without latentmas.trace, whose records have the thoughts")
    return lens


def _check_name(name: str) -> str:
    if not is_conversation_id(name):
        raise refuse(CONVERSATION_FORM)
    return name


class LatentOptions(ApiModel):
    """What a client can set of the team's work, as `latentmas`; None: as the server was started."""

    latent_steps: Annotated[StepsSetting | None, BeforeValidator(_check_steps)] = None
    memory: Annotated[ServedMemory | None, BeforeValidator(_check_memory)] = None  # a control: what readers get of it
    trace: bool = False  # whether the answer has the events of its agents
    # Whether these have the thoughts through the logit lens.
    lens: Annotated[bool, AfterValidator(_check_lens)] = False
    # Whose working memory is kept for its next turn.
    conversation: Annotated[str, AfterValidator(_check_name)] | None = None


class StreamOptions(ApiModel):
    """What a stream has besides text."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, off(False, instead="chunks are not padded")] = None


def _form_of(value: object) -> str | None:
    return tag("text") if isinstance(value, str) else tag("list") if isinstance(value, list) else None


_Stop = Annotated[str, Field(min_length=1, max_length=256)]
_Stops = Annotated[
    Annotated[_Stop, Tag(tag("text"))] | Annotated[list[_Stop], Field(max_length=MAX_STOPS), Tag(tag("list"))],
    Discriminator(_form_of, custom_error_type="invalid_value", custom_error_message=_STOP_FORM),
]


def _check_metadata(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > _MAX_METADATA or any(len(key) > 64 or len(text) > 512 for key, text in metadata.items()):
        raise refuse(_METADATA_FORM)
    return metadata


_NO_CACHE: Final = "nothing is kept between requests"
_PENALTY: Final = "the team's engines have no penalties"


class SamplingRequest(ApiModel):
    """The fields that chat and completions share. None: the server's own setting, or off."""

    model: Annotated[str, Field(min_length=1, max_length=300)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=_MAX_TOKENS)] | None = None
    stop: _Stops | None = None
    seed: Annotated[int, Field(ge=-_MAX_SEED, lt=_MAX_SEED)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    metadata: Annotated[dict[str, str], AfterValidator(_check_metadata)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None  # like `user`: nothing depends on it
    latentmas: LatentOptions = LatentOptions()

    presence_penalty: Annotated[Any, off(0, instead=_PENALTY)] = None
    frequency_penalty: Annotated[Any, off(0, instead=_PENALTY)] = None
    logit_bias: Annotated[Any, off({}, instead="tokens are drawn from the model's own distribution")] = None
    store: Annotated[Any, off(False, instead="the server stores no answers")] = None
    service_tier: Annotated[Any, off("auto", "default", instead="all requests are treated alike")] = None
    prompt_cache_key: Annotated[Any, off(instead=_NO_CACHE)] = None
    prompt_cache_retention: Annotated[Any, off(instead=_NO_CACHE)] = None
    prompt_cache_options: Annotated[Any, off(instead=_NO_CACHE)] = None

    @field_validator("stream_options")
    @classmethod
    def _check_stream(cls, options: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if options is not None and not info.data.get("stream", True):
            raise refuse("it is for stream: true; leave it out, or stream")
        return options

    @field_validator("latentmas", mode="before")
    @classmethod
    def _without_null(cls, options: object) -> object:
        return LatentOptions() if options is None else options

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer; empty for none."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def streams(self) -> bool:
        """Whether the answer comes in pieces."""
        return bool(self.stream)

    @property
    def streams_usage(self) -> bool:
        """Whether the last chunk has the usage."""
        return self.streams and self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def run_seed(self) -> int | None:
        """The seed of a run: OpenAI's may be negative, a run's is not. None: the server's."""
        return None if self.seed is None else self.seed % _MAX_SEED

    @property
    def max_new_tokens(self) -> int | None:
        """The bound on an answer's tokens. None: the server's."""
        return self.max_tokens
