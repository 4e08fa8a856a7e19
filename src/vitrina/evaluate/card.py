"""What a table says of the split it was measured on."""

from dataclasses import dataclass

from vitrina.split import Part, Split


@dataclass(frozen=True)
class SplitCard:
    """What a table must say of the split it was measured on."""

    digest: str
    title: str
    parts: tuple[Part, ...]
    warning: str | None

    @classmethod
    def of(cls, split: Split) -> "SplitCard":
        """The card of a split."""
        return cls(split.digest, split.title, split.parts, split.warning)
