"""Methods of other papers, to compare with."""

from fsdd_jax.algorithms.peers.frepo import FREPO
from fsdd_jax.algorithms.peers.kip import KIP
from fsdd_jax.algorithms.peers.rcig import RCIG
from fsdd_jax.algorithms.peers.rfad import RFAD

PEERS = {'frepo': FREPO, 'rfad': RFAD, 'rcig': RCIG, 'kip': KIP}
