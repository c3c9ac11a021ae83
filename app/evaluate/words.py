"""Words that tests of memory are made of: plain English, each many times in any vocabulary. Our own lists."""

from __future__ import annotations

_NOUNS = """
anchor apple arrow badge basket beach bell bench bird boat book bottle bridge brush bucket button cabin cable camera
candle canoe carpet castle chain chair cherry clock cloud coat coin comb cook copper corner cotton cousin crown cup
curtain daisy dancer desk doctor donkey door drum eagle engine farmer feather fence field finger flag flute forest fork
fountain garden gate glove grape guitar hammer harbor hat hill honey horse island jacket jar judge kettle key kitchen
kite ladder lake lamp lemon letter lion lock magnet map market meadow mirror monkey moon mountain needle nest notebook
ocean onion orchard oven owl paint palace paper parrot pencil pepper piano pillow pilot planet plate pocket potato
queen rabbit ribbon river robin rocket roof rope saddle sailor salt school shovel silver sister spoon station stone
table tailor teacher thunder ticket tiger tower train tree trumpet tunnel turtle umbrella valley violin wagon wall
water whistle window winter wolf
"""
_ADJECTIVES = """
bitter blue brave bright broken calm clever cold crooked curious dark dusty early empty fancy foreign friendly gentle
golden green happy heavy hidden honest huge hungry late lazy little lonely lucky modern narrow noisy old orange patient
polite proud purple quick quiet red rich round rusty silent small smooth strange sweet tall tiny warm white wild wooden
yellow young
"""
NOUNS, ADJECTIVES = tuple(_NOUNS.split()), tuple(_ADJECTIVES.split())
FILLER = (
    "The river runs down to the sea.",
    "The wind comes from the west today.",
    "Behind the hill the light is fading.",
    "A dog barks somewhere in the village.",
    "The baker opens the shop before sunrise.",
    "Rain falls on the roof of the old mill.",
    "Children play in front of the school.",
    "The train to the coast leaves at noon.",
    "Nobody has moved the chairs in the hall.",
    "The soup is still warm on the stove.",
    "Two ships wait outside of the harbor.",
    "In the library it is quiet, as always.",
    "The farmer looks at the clouds and nods.",
    "Fresh snow lies on the road to the pass.",
    "The clock on the tower is a little slow.",
    "Someone left a blue umbrella on the bus.",
)
"""Sentences that say nothing anybody will ask for."""
REPEATED = (
    "The river runs down to the sea. The wind comes from the west. The stars are out again. Round and round it goes."
)
"""The filler of the passkey test: always the same."""
