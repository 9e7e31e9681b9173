"""The codecs: layouts of soft ids in a shard, by name. No heavy import: lists of options need the names.

To add a codec, write a module like stages/soft_ids/plain_codec.py and list it here.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CodecSpec:
    """What can be known of a codec without loading it."""

    module: str  # its `CODEC` is a textsmooth.stages.soft_ids.codec.Codec
    columns: tuple[str, ...]  # columns of a shard that may hold its soft ids, in order

    @property
    def nested_lists(self) -> bool:
        """Whether any Arrow reader can use the entries: columns `soft_ids` and `soft_logprobs`, nested lists."""
        return {"soft_ids", "soft_logprobs"} <= set(self.columns)


CODECS = {
    "plain": CodecSpec(
        module="textsmooth.stages.soft_ids.plain_codec",
        columns=("soft_ids", "soft_logprobs", "log_tail", "original_logprob", "log_partition"),
    ),
}
