"""What runs are called: two words, unique in their store, easier to say than hexadecimal digits."""

from __future__ import annotations

import sqlite3

from minipipe.chance import fresh_id, pick

_FIRST = (
    "able airy amber ample aqua arch avid azure bald basic beige bold brave brief bright brisk broad calm candid cheery chilly "
    "civil clean clear clever coral cosy crisp curly daring dawn deep deft dense dry dusky eager early easy even fair fancy fast "
    "fine firm fleet fond frank free fresh gentle giant glad gold grand great green grey happy hardy hazel honest humble icy "
    "idle ivory jade jolly jovial keen kind large late leafy lemon light lilac lively long loud loyal lucid lucky lunar magic "
    "major maple mellow merry mild mint misty modest mossy neat nimble noble olive open orange pale patient peach pearl plain "
    "plucky polite prime proud pure quick quiet rapid rare ready regal rosy round royal ruby rustic safe sandy sharp shy silent "
    "silver simple sleek slow smart smooth snowy sober soft solar solid sound spare spry stable steady still stout sunny sure "
    "swift tall tame tart tidy tiny topaz tough tranquil true upbeat urban vast velvet vivid warm wary wavy white wide wild "
    "windy wise witty young zesty"
).split()
_SECOND = (
    "acorn adder alder alpaca aspen badger bamboo bass bear beaver beech bee birch bison bream brook bison canyon cedar cherry "
    "cliff clover cloud coast cobra comet condor coral cove crab crane creek crow cypress daisy deer delta dingo dolphin dove "
    "dragon duck dune eagle eel egret elk elm falcon fawn fern ferret field finch fir fjord flint forest fox frog gecko geyser "
    "glacier goat goose grove gull hare harbor hawk hazel heron hill hornet horse ibex ibis iris island ivy jackal jaguar jay "
    "juniper kestrel kite kiwi koala lagoon lake lark laurel leaf lemur leopard lily lion lizard llama lotus lynx magpie maple "
    "marmot marsh marten meadow mesa mink mole moose moss moth mouse newt oak oasis ocean orca orchid osprey otter owl panda "
    "panther parrot peak pebble pelican penguin pike pine plain plover pond pony poplar poppy prairie puffin puma quail rabbit "
    "raven reef ridge river robin rook rose sage salmon seal shark sheep shore shrew sloth snail sparrow spruce squid stag star "
    "stoat stone stork stream swan tapir tern thistle thrush tiger toad trout tulip tuna turtle valley viper vole walrus wasp "
    "weasel whale willow wolf wombat wren yak zebra"
).split()


def unused(connection: sqlite3.Connection) -> str:
    """A name that no run of this store has. Part of the caller's transaction, which also takes it."""
    for attempt in range(1_000):
        name = f"{pick(_FIRST)}-{pick(_SECOND)}"
        if attempt >= 8:  # a store with very many runs: number them rather than search on
            name = f"{name}-{int(fresh_id()[:5], 16)}"
        if not connection.execute("SELECT 1 FROM task WHERE run_name = ?", (name,)).fetchall():
            return name
    raise AssertionError("no free name in a thousand tries")
