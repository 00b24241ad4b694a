"""Checks annotations at every call, for jaxtyping's import hook (`conftest.py`).

jaxtyping hands over functions that it has generated, with their annotations resolved. `typeguard.typechecked` reads a
function's source, which those do not have; `typeguard.check_type` needs the annotation alone.
"""

import functools
import inspect

import typeguard


def checked(function):
    """`function`, raising TypeError where an argument or the result is not what its annotation says."""
    signature = inspect.signature(function)

    def check(name, value, annotation):
        if annotation is inspect.Signature.empty:
            return
        try:
            typeguard.check_type(value, annotation, forward_ref_policy=typeguard.ForwardRefPolicy.IGNORE)
        except typeguard.TypeCheckError as error:
            raise TypeError(f"{name}: {error}") from error

    @functools.wraps(function)
    def call(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            check(name, value, signature.parameters[name].annotation)
        result = function(*args, **kwargs)
        check("the result", result, signature.return_annotation)
        return result

    return call
