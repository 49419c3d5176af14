"""A plugin of mypy, which ignores what decorators make of classes: ``plugins = obsray.mypy`` in its configuration.

With it a class under ``@obsray.remote`` has ``remote`` and ``options``, the methods of a handle have the arguments and
results of the class' own, and a reference may stand wherever a value may.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from mypy.checker import TypeChecker
from mypy.erasetype import erase_typevars
from mypy.errorcodes import ATTR_DEFINED, CALL_ARG
from mypy.nodes import (
    CallExpr,
    Decorator,
    Expression,
    FuncDef,
    IntExpr,
    MemberExpr,
    NameExpr,
    OverloadedFuncDef,
    RefExpr,
    StrExpr,
    SymbolNode,
    TypeInfo,
    Var,
)
from mypy.plugin import AttributeContext, ClassDefContext, FunctionContext, MethodContext, MethodSigContext, Plugin
from mypy.plugins.common import add_attribute_to_class
from mypy.typeops import type_object_type
from mypy.types import (
    AnyType,
    CallableType,
    FunctionLike,
    Instance,
    NoneType,
    Overloaded,
    Parameters,
    ParamSpecType,
    Type,
    TypeOfAny,
    UnionType,
    UnpackType,
    get_proper_type,
)

REMOTE = "obsray.core.remote.remote"
ACTOR_CLASS = "obsray.core.actors.ActorClass"
FUNCTION = "obsray.core.functions.RemoteFunction"
HANDLE = "obsray.core.handles.ActorHandle"
METHOD = "obsray.core.handles.ActorMethod"
REFERENCE = "obsray.core.runtime.references.ObjectRef"
GENERATOR = "obsray.core.runtime.streams.ObjectRefGenerator"

#: What is noted of a class: under ``is_actor`` whether a decorator made it an actor class, under ``num_returns`` what
#: ``method`` says of its methods. mypy keeps it with the class from run to run; decorators it does not keep.
NOTED = "obsray"
#: What an actor class has and its plain class has not.
OF_CLASSES = ("remote", "options", "_remote", "bind")


class ObsrayPlugin(Plugin):
    """What mypy asks. Names of hooks are those of mypy."""

    def get_class_decorator_hook(self, fullname: str) -> Callable[[ClassDefContext], None] | None:
        return _made_remote if fullname == REMOTE else None

    def get_customize_class_mro_hook(self, fullname: str) -> Callable[[ClassDefContext], None] | None:
        return _note_results

    def get_base_class_hook(self, fullname: str) -> Callable[[ClassDefContext], None] | None:
        return _inherited if self._is_actor_class(fullname) else None

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        return _called if self._is_actor_class(fullname) else None

    def get_class_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        return self._of_class if fullname.rpartition(".")[2] in OF_CLASSES else None

    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        owner, _, name = fullname.rpartition(".")
        return (lambda context: self._of_handle(context, name)) if owner == HANDLE else None

    def get_method_signature_hook(self, fullname: str) -> Callable[[MethodSigContext], FunctionLike] | None:
        if fullname == f"{ACTOR_CLASS}.remote":
            return self._made
        return self._called_remotely if fullname == f"{FUNCTION}.remote" else None

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        return _called_directly if fullname in (f"{FUNCTION}.__call__", f"{METHOD}.__call__") else None

    def _is_actor_class(self, fullname: str) -> bool:
        found = self.lookup_fully_qualified(fullname)
        return found is not None and _is_actor(found.node)

    def _instance(self, fullname: str, *args: Type) -> Instance:
        found = self.lookup_fully_qualified(fullname)
        assert found is not None and isinstance(found.node, TypeInfo), fullname
        return Instance(found.node, list(args))

    def _of_class(self, context: AttributeContext) -> Type:
        """``Class.remote`` and its like, of a class that a decorator made an actor class."""
        cls = get_proper_type(context.type)
        if not (isinstance(cls, FunctionLike) and cls.is_type_obj() and _is_actor(cls.type_object())):
            return context.default_attr_type
        member = context.context
        name = member.name if isinstance(member, MemberExpr) else ""
        if name == "remote":
            return self._maker(cls)
        actor_class = self._instance(ACTOR_CLASS, _erased(cls.items[0]).ret_type)
        return _checker(context).expr_checker.analyze_external_member_access(name, actor_class, member)

    def _made(self, context: MethodSigContext) -> FunctionLike:
        """``remote`` of an ``ActorClass[T]``: what the constructor of ``T`` takes."""
        made = get_proper_type(context.type)
        of = get_proper_type(made.args[0]) if isinstance(made, Instance) and made.args else None
        if not isinstance(of, Instance):
            return context.default_signature
        constructor = type_object_type(of.type, lambda name: context.api.named_generic_type(name, []))
        return self._maker(constructor) if isinstance(constructor, FunctionLike) else context.default_signature

    def _maker(self, constructor: FunctionLike) -> FunctionLike:
        """From what makes an object to what makes an actor of it."""
        items = [
            self._relaxed(item).copy_modified(ret_type=self._instance(HANDLE, item.ret_type), name="remote")
            for item in constructor.items
        ]
        return items[0] if len(items) == 1 else Overloaded(items)

    def _called_remotely(self, context: MethodSigContext) -> FunctionLike:
        return self._relaxed(context.default_signature)

    def _relaxed(self, signature: CallableType) -> CallableType:
        """The same with references where values are."""
        return signature.copy_modified(arg_types=[self._or_reference(given) for given in signature.arg_types])

    def _or_reference(self, given: Type) -> Type:
        if isinstance(get_proper_type(given), (ParamSpecType, UnpackType, AnyType)):
            return given
        return UnionType.make_union([given, self._instance(REFERENCE, given)])

    def _of_handle(self, context: AttributeContext, name: str) -> Type:
        """The method of an ``ActorHandle[T]``, with the arguments and results of that of ``T``."""
        handle = get_proper_type(context.type)
        of = get_proper_type(handle.args[0]) if isinstance(handle, Instance) and handle.args else None
        if not isinstance(of, Instance) or (name.startswith("__") and name.endswith("__")):
            return context.default_attr_type
        found = of.type.get(name)
        if found is None or found.node is None:
            if not of.type.fallback_to_any:
                context.api.fail(
                    f'The actor "{of.type.name}" has no method "{name}"', context.context, code=ATTR_DEFINED
                )
            return context.default_attr_type
        function = _function(found.node)
        if function is None:
            if (isinstance(found.node, Var) and not found.node.is_classvar) or _is_property(found.node):
                context.api.fail(
                    f'"{name}" is an attribute of the actor "{of.type.name}": only its methods can be called from '
                    "outside, so write one that returns it",
                    context.context, code=ATTR_DEFINED,
                )  # fmt: skip
            return context.default_attr_type
        checker = _checker(context).expr_checker
        bound = get_proper_type(checker.analyze_external_member_access(name, of, context.context))
        if not isinstance(bound, CallableType):
            return context.default_attr_type
        bound = self._relaxed(_erased(bound))
        noted = next((_noted(cls)[name] for cls in of.type.mro if name in _noted(cls)), None)
        arguments = Parameters(bound.arg_types, bound.arg_kinds, bound.arg_names)
        return self._instance(METHOD, arguments, self._result(function, bound.ret_type, noted))

    def _result(self, function: FuncDef, returned: Type, noted: int | str | None) -> Type:
        """What a call returns at once."""
        anything = AnyType(TypeOfAny.special_form)
        if noted == 0:
            return NoneType()
        if noted == "streaming":
            return self._instance(GENERATOR, anything)
        if isinstance(noted, int) and noted > 1:
            return self._instance("builtins.list", self._instance(REFERENCE, anything))
        if noted not in (None, 1):
            return anything
        value = get_proper_type(returned)
        arguments = value.args if isinstance(value, Instance) else ()
        if function.is_generator or function.is_async_generator:
            return self._instance(GENERATOR, arguments[0] if arguments else anything)
        if function.is_coroutine:
            return self._instance(REFERENCE, arguments[-1] if arguments else anything)
        return self._instance(REFERENCE, returned)


def plugin(version: str) -> type[Plugin]:
    """What mypy calls first."""
    return ObsrayPlugin


def _made_remote(context: ClassDefContext) -> None:
    """A class has been made an actor class by a decorator."""
    info = context.cls.info
    info.metadata.setdefault(NOTED, {})["is_actor"] = True
    for name in OF_CLASSES:
        if name not in info.names:
            # A value of every type: what it is, is said where it is asked for.
            anything = AnyType(TypeOfAny.special_form)
            add_attribute_to_class(context.api, context.cls, name, anything, is_classvar=True)


def _note_results(context: ClassDefContext) -> None:
    """What ``@method(num_returns=...)`` says in the body of a class."""
    for statement in context.cls.defs.body:
        if not isinstance(statement, Decorator):
            continue
        for decorator in statement.original_decorators:
            if isinstance(decorator, CallExpr) and _last_name(decorator.callee) == "method":
                given = dict(zip(decorator.arg_names, decorator.args, strict=True)).get("num_returns")
                if given is not None:
                    number = given.value if isinstance(given, (IntExpr, StrExpr)) else "unknown"
                    noted = context.cls.info.metadata.setdefault(NOTED, {})
                    noted.setdefault("num_returns", {})[statement.name] = number


def _inherited(context: ClassDefContext) -> None:
    name = context.reason.name if isinstance(context.reason, RefExpr) else "its base"  # type: ignore[attr-defined]
    context.api.fail(
        f'"{name}" is an actor class, from which no class can be derived: derive from the plain class', context.reason
    )


def _called(context: FunctionContext) -> Type:
    name = _last_name(context.context.callee) if isinstance(context.context, CallExpr) else "it"
    context.api.fail(f'"{name}" is an actor class: call {name}.remote(...)', context.context, code=CALL_ARG)
    return context.default_return_type


def _called_directly(context: MethodContext) -> Type:
    context.api.fail("This runs elsewhere: call .remote(...)", context.context, code=CALL_ARG)
    # What it returns in truth, nothing, would have the lines that follow pass unread.
    return AnyType(TypeOfAny.from_error)


def _is_actor(node: SymbolNode | None) -> bool:
    return isinstance(node, TypeInfo) and bool(node.metadata.get(NOTED, {}).get("is_actor"))


def _noted(cls: TypeInfo) -> dict[str, Any]:
    return cast("dict[str, Any]", cls.metadata.get(NOTED, {}).get("num_returns", {}))


def _checker(context: AttributeContext) -> TypeChecker:
    # The interface for plugins cannot look at members.
    return cast(TypeChecker, context.api)


def _last_name(expression: Expression) -> str:
    return expression.name if isinstance(expression, (MemberExpr, NameExpr)) else ""


def _is_property(node: SymbolNode) -> bool:
    if isinstance(node, OverloadedFuncDef):
        return node.is_property
    return isinstance(node, Decorator) and node.var.is_property


def _function(node: SymbolNode) -> FuncDef | None:
    """The definition behind a name of a class; None for what is no method."""
    if _is_property(node):
        return None
    if isinstance(node, OverloadedFuncDef):
        node = node.items[0]
    if isinstance(node, Decorator):
        return node.func
    return node if isinstance(node, FuncDef) else None


def _erased(signature: CallableType) -> CallableType:
    """Without type variables of its own: a class of methods cannot carry them."""
    if not signature.variables:
        return signature
    erased = erase_typevars(signature.copy_modified(variables=[]), {variable.id for variable in signature.variables})
    return cast(CallableType, erased)
