"""Files of TensorBoard events, without TensorFlow and without TensorBoard: scalars, texts and pictures."""

from __future__ import annotations

import pathlib
import socket
import struct
import time
from collections.abc import Mapping

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.proto.tensor_pb2 import TensorProto
from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboardX.record_writer import masked_crc32c

from t5x_mini.growing_file import GrowingFile

# PNG's numbers for its colour types, and how many channels TensorBoard is to expect (PNG, section 11.2.2).
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


class EventFile:
    """One file of events, each written out at once (in a bucket, as `GrowingFile` does).

    tensorboardX's own writer hands events to a thread, and a kill loses what waits there.

    Args:
        directory: that TensorBoard is pointed at; made if need be.
        first_step: what earlier files in it say about this step and those after it is forgotten.
    """

    def __init__(self, directory: pathlib.Path, first_step: int):
        # TensorBoard reads the files of a directory in the order of their names.
        self._file = GrowingFile(directory / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}", b"")
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))
        # A start in the middle makes TensorBoard forget what earlier files say about this step and those after it.
        self._append(Event(wall_time=time.time(), step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._summary(step, *(Summary.Value(tag=name, simple_value=value) for name, value in values.items()))

    def text(self, step: int, tag: str, markdown: str) -> None:
        """A text under the tab Text, where TensorBoard renders Markdown with tables and fenced code."""
        one = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype="DT_STRING", string_val=[markdown.encode()], tensor_shape=one)
        self._summary(step, Summary.Value(tag=tag, tensor=tensor, metadata=_shown_by("text")))

    def image(self, step: int, tag: str, png: bytes) -> None:
        """A PNG under the tab Images. Raises ValueError where it isn't one."""
        if png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR":
            raise ValueError(f"the picture {tag!r} is not a PNG")
        width, height, _, colour = struct.unpack(">IIBB", png[16:26])
        image = Summary.Image(width=width, height=height, colorspace=_CHANNELS[colour], encoded_image_string=png)
        self._summary(step, Summary.Value(tag=tag, image=image, metadata=_shown_by("images")))

    def sync(self) -> None:
        """As `GrowingFile.sync`."""
        self._file.sync()

    def close(self) -> None:
        self._file.close()

    def _summary(self, step: int, *values: Summary.Value) -> None:
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _append(self, event: Event) -> None:
        """Writes one TFRecord: length, its checksum, the event, its checksum."""
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self._file.write(b"".join(part + struct.pack("<I", masked_crc32c(part)) for part in (length, data)))


def _shown_by(plugin: str) -> SummaryMetadata:
    return SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin))
