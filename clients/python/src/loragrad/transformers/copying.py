"""What an attached model holds and no copy of it may."""

from __future__ import annotations

from typing import NoReturn

from ..errors import UnsupportedError


class OfOneModel:
    """Whoever copies or pickles an attached model whole finds one of these, and is told what to do."""

    def __deepcopy__(self, _: object) -> NoReturn:
        raise UnsupportedError("The model is attached; detach() it before it is copied")

    def __reduce_ex__(self, _: object) -> NoReturn:
        raise UnsupportedError(
            "The model is attached; detach() it before it is pickled (state_dict and save_pretrained "
            "work as it is)"
        )
