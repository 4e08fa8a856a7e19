"""What may be shown: rules between the models and the person. Each removes candidates and says so."""

from vitrina.policies.cap import CapPer
from vitrina.policies.items import Allow, Block, MaxAge, MinAge
from vitrina.policies.unseen import Unseen, not_in

Policy = Allow | Block | MinAge | MaxAge | Unseen | CapPer

POLICIES: dict[str, type[Policy]] = {
    kind.__name__: kind for kind in (Allow, Block, MinAge, MaxAge, Unseen, CapPer)
}
"""Every policy by name, for configuration files and saved pipelines."""

__all__ = ["POLICIES", "Allow", "Block", "CapPer", "MaxAge", "MinAge", "Policy", "Unseen", "not_in"]
