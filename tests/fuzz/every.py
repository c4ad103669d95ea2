"""All decoders, by name."""

from tests.fuzz import ledger_decoders, mail_decoders, mbox_decoders, server_decoders, store_decoders
from tests.fuzz.decoder import Decoder

DECODERS: dict[str, Decoder] = {
    decoder.name: decoder
    for module in (store_decoders, mail_decoders, mbox_decoders, ledger_decoders, server_decoders)
    for decoder in module.DECODERS
}
