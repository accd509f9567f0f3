"""Component `verdict`: whether any student passed its gate."""

from typing import List  # noqa: UP035  (Kubeflow ships the function alone, with typing's names)

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def verdict(candidates: List[str]) -> bool:  # noqa: UP006
    """Say whether any student passed its gate.

    A condition of a pipeline compares one value, and a loop hands over a list: this makes
    one of the other.

    Args:
        candidates: JSON of each budget's candidate, from `gate`.

    Returns:
        True when at least one candidate passed.
    """
    from components.outputs import has_passed

    return has_passed(candidates)
