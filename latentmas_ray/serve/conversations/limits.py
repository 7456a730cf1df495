"""How much working memory an endpoint keeps of conversations."""

from dataclasses import dataclass

from latentmas_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ConversationLimits:
    """Bounds on what is kept. Raises ConfigError for an impossible value."""

    max_bytes: int = 2**30  # of working memory and texts, of all conversations together
    max_number: int = 256  # conversations
    ttl_seconds: float = 3600.0  # after its last turn a conversation is dropped
    max_exchanges: int = 64  # of one conversation: each is a segment, and each agent reads all of them

    def __post_init__(self) -> None:
        for name, field in (("max_bytes", "conversation_memory"), ("max_number", "max_conversations")):
            if getattr(self, name) < 0:
                raise ConfigError(field, getattr(self, name), "it must be at least 0; 0 keeps none")
        if not 0 < self.ttl_seconds < float("inf"):
            raise ConfigError("conversation_ttl", self.ttl_seconds, "it must be a number of seconds, more than 0")
        if not 1 <= self.max_exchanges <= 64:
            raise ConfigError("max_exchanges", self.max_exchanges, "it must be 1 to 64")
