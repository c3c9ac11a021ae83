"""Conversations in a store: to begin one, and what is said in it."""

from __future__ import annotations

from lacache_app.chat import ask
from lacache_app.store import Store


def talk(store: Store, *texts: str, **settings) -> str:
    """A conversation in which user and assistant said these, in turn."""
    chat = store.create(**settings).id
    for i, text in enumerate(texts):
        store.append(chat, "assistant" if i % 2 else "user", text)
    return chat


def texts(store: Store, chat: str) -> list[str]:
    return [message.content for message in store.messages(chat)]


def begin(store: Store, text: str = "hello", **settings) -> str:
    """A conversation whose user has asked this."""
    conversation = store.create(**settings).id
    ask(store, conversation, text)
    return conversation


def said(store: Store, conversation: str) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in store.messages(conversation)]
