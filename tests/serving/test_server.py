"""What the server answers, and what it refuses: over a real socket of loopback."""

from __future__ import annotations

import base64
import io
import json
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from asked_server import asked, encoded, multipart, predicted, sent_raw, served
from PIL import Image

from cifar_hapi import Run, ServingOptions, predict
from cifar_hapi.serving.facts import facts_of
from cifar_hapi.serving.protocol import GuardedProtocol


def shares(prediction):
    return np.array(list(prediction["probabilities"].values()))


def test_one_image_and_several_are_classified_as_predict_does(port, run, images):
    expected = predict(run, images[:5])
    files = [(f"{number}.png", encoded(image)) for number, image in enumerate(images[:5])]
    found = predicted(port, *files).content
    assert [each["file"] for each in found["images"]] == [name for name, _ in files]
    assert [each["class"] for each in found["images"]] == list(expected.names)
    assert list(found["images"][0]["probabilities"]) == list(expected.class_names)
    np.testing.assert_allclose([shares(each) for each in found["images"]], expected.probabilities, rtol=1e-5)
    (alone,) = predicted(port, files[3]).content["images"]
    np.testing.assert_allclose(shares(alone), expected.probabilities[3], rtol=1e-5)


def test_the_best_weights_are_those_that_predict_takes(run, images):
    expected = predict(run, images[:1], weights="best")
    with served(run, weights="best", batch=1) as port:
        found = predicted(port, ("a.png", encoded(images[0]))).content
    assert found["run"]["weights"] == "best"
    np.testing.assert_allclose(shares(found["images"][0]), expected.probabilities[0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "application/octet-stream", "IMAGE/PNG; x=y"])
def test_an_image_can_be_the_body_itself(port, run, images, kind):
    found = asked(port, body=encoded(images[0]), content_type=kind).content["images"]
    assert [each["file"] for each in found] == ["image 1"]
    np.testing.assert_allclose(shares(found[0]), predict(run, images[0]).probabilities[0], rtol=1e-5)


def test_photos_are_resized_as_predict_resizes_files(port, run, tmp_path):
    y, x = np.mgrid[:300, :500]
    photo = np.stack([y % 256, x % 256, (x * y) % 256], axis=-1).astype("uint8")
    (tmp_path / "photo.jpg").write_bytes(content := encoded(photo, "JPEG", quality=90))
    (found,) = predicted(port, ("photo.jpg", content)).content["images"]
    np.testing.assert_allclose(shares(found), predict(run, tmp_path / "photo.jpg").probabilities[0], rtol=1e-5)


def test_what_the_network_saw_is_sent_where_it_is_asked_for(port, images):
    (found,) = predicted(port, ("a.png", encoded(images[7])), path="/predict?seen=true").content["images"]
    png = base64.b64decode(found["seen"].removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), images[7])
    assert predicted(port, ("a.png", encoded(images[7]))).content["images"][0]["seen"] is None


def test_the_run_and_its_accuracy_are_told_as_recorded(port, run, images):
    about = predicted(port, ("a.png", encoded(images[0]))).content["run"]
    assert about["name"] == run.path.name and about["step"] == run.evaluation["step"]
    assert about["accuracy"]["top1"] == run.evaluation["without_views"]["top1"]  # images are seen once here
    assert about["accuracy"]["images"] == 120
    assert asked(port, "/run").content["class_names"] == list(run.data.class_names)


def test_strangers_do_not_learn_where_images_are_on_this_machine(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    of_folder = Run(tmp_path / "run")
    of_folder.update(data=of_folder.manifest["data"] | {"name": "/home/someone/pets", "note": "left out: /home/x.png"})
    of_folder.save_evaluation(of_folder.evaluation | {"data": "/home/someone/pets"})
    found = facts_of(of_folder, "latest", ServingOptions())
    assert found.data == found.accuracy.data == "pets" and "home" not in found.model_dump_json()


def test_when_the_network_has_ended_requests_are_told_so_at_once(run, images, monkeypatch):
    monkeypatch.setattr("cifar_hapi.serving.batching.Batcher._answer_batch", lambda batcher, classify: False)
    with served(run) as port:
        begun = time.perf_counter()
        for found in (predicted(port, ("a.png", encoded(images[0]))), asked(port, "/healthz")):
            assert found.status == 503
            assert found.content["error"] == "the network's thread has ended; start the server anew"
        assert time.perf_counter() - begun < 10  # half of what an answer may take


def test_timings_are_those_of_the_request(port, images):
    begun = time.perf_counter()
    found = predicted(port, *[("a.png", encoded(image)) for image in images[:5]]).content["images"]
    took = time.perf_counter() - begun
    for each in found:
        assert all(0 < seconds < took for seconds in each["seconds"].values()) and 1 <= each["batch"] <= 5


def test_requests_that_come_together_share_a_forward_pass(run, images):
    with served(run, gather_seconds=0.5, batch=8) as port, ThreadPoolExecutor(8) as clients:
        found = list(clients.map(lambda image: predicted(port, ("a.png", encoded(image))).content, images[:8]))
    assert max(reply["images"][0]["batch"] for reply in found) > 1


def test_health_and_the_description_need_nothing_from_elsewhere(port):
    assert asked(port, "/healthz").content == {"status": "ok", "waiting": 0}
    described = asked(port, "/openapi.json").content
    assert set(described["paths"]) == {"/predict", "/run", "/healthz"}
    assert "class" in described["components"]["schemas"]["Prediction"]["properties"]
    asking = described["paths"]["/predict"]["post"]
    assert set(asking["requestBody"]["content"]) == {"multipart/form-data", "image/*", "application/octet-stream"}
    assert {"400", "403", "408", "413", "415", "421", "422", "503"} <= set(asking["responses"])
    assert asked(port, "/docs").status == asked(port, "/redoc").status == 404


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css"), ("/icon.svg", "image/svg+xml")],
)
def test_the_page_is_files_of_this_server_alone(port, path, kind):
    found = asked(port, path)
    assert found.status == 200 and found.headers["content-type"].startswith(kind)
    assert b"http" not in found.body.replace(b'xmlns="http://www.w3.org/2000/svg"', b"")
    assert asked(port, path, method="HEAD").body == b""


@pytest.mark.parametrize("path", ["/", "/healthz", "/predict", "/nothing", "/%00"])
def test_every_answer_shuts_others_out(port, path):
    headers = asked(port, path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == headers["cross-origin-opener-policy"] == "same-origin"
    assert not [name for name in headers if name.startswith("access-control")] and "server" not in headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("mine.example", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("192.168.0.1", 421),
        ("[::1", 200),
        ("", 421),
    ],
)
def test_only_its_own_names_are_hosts(named_port, host, status):
    found = asked(named_port, "/healthz", host=host)
    assert found.status == status and (status == 200 or "does not answer for that host" in found.content["error"])


@pytest.fixture(scope="module")
def named_port(run):
    with served(run, allow_hosts=["mine.example"], batch=1) as found:
        yield found


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost:5", 200), ("http://evil.example", 403), ("null", 403), ("http://localhost:6", 403)],
)
def test_pages_of_other_sites_cannot_ask(port, images, origin, status):
    found = asked(port, body=encoded(images[0]), content_type="image/png", host="localhost:5", origin=origin)
    assert found.status == status


NO_IMAGE = ("a.txt", b"no picture")


@pytest.mark.parametrize(
    ("content_type", "body", "status", "sentence"),
    [
        ("text/plain", b"x", 415, "send images as multipart/form-data"),
        ("", b"x", 415, "send images as multipart/form-data"),
        ("image/png", b"", 400, "image 1: is empty"),
        ("image/png", b"no picture", 415, "image 1: not an image of a known format (PNG, JPEG, WEBP, GIF, BMP)"),
        ("multipart/form-data", b"x", 400, "its content type names no boundary"),
        ("multipart/form-data; boundary=between", b"x", 400, "the boundary that its content type names is not in it"),
        ("multipart/form-data; boundary=between", multipart(), 400, "the request holds no image"),
        ("multipart/form-data; boundary=between", multipart(NO_IMAGE)[:-4], 400, "ends before its last boundary"),
        ("multipart/form-data; boundary=between", multipart(NO_IMAGE), 415, "a.txt: not an image"),
        ("multipart/form-data; boundary=between", multipart(*[NO_IMAGE] * 33), 413, "more than 32 images"),
        ("multipart/form-data; boundary=between", multipart(*[NO_IMAGE] * 99), 413, "more than 32 images"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(port, content_type, body, status, sentence):
    found = asked(port, body=body, content_type=content_type)
    assert found.status == status and sentence in found.content["error"] and "\n" not in found.content["error"]


def test_of_several_images_the_wrong_one_is_named(port, images):
    good = encoded(images[0])
    found = predicted(port, ("good.png", good), ("bad%0D%0A<b>.png", good[:200]), ("fine.png", good))
    assert found.status == 422 and found.content["image"] == 1
    assert found.content["error"].startswith("bad��<b>.png (image 2 of 3): cannot be read as an image")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("PUT", "/predict", 405), ("GET", "/predict", 405), ("GET", "/x", 404)]
)
def test_other_paths_and_methods_are_refused(port, method, path, status):
    found = asked(port, path, method=method)
    assert found.status == status and found.content["error"]


def test_a_query_that_is_none_is_refused(port):
    found = predicted(port, path="/predict?seen=maybe")
    assert found.status == 422 and found.content["error"] == "seen cannot be 'maybe': input should be a valid boolean"


# --- limits, each made small ---


@pytest.fixture(scope="module")
def narrow(run):
    """The port of a server with room for little."""
    limits = {"body": 20_000, "memory": 30_000, "images": 3, "queue": 3, "pixels": 90_000, "connections": 6}
    with served(run, batch=1, receive_seconds=0.5, wait_seconds=5.0, **limits) as found:
        yield found


def chunked(*chunks):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


def test_a_body_may_not_be_longer_than_it_says_it_may(narrow):
    found = asked(narrow, body=bytes(20_001), content_type="image/png")
    assert found.status == 413 and found.content["error"] == "the request has more than 20,000 bytes"


def test_a_body_that_does_not_say_how_long_it_is_is_counted_as_it_comes(narrow):
    found = sent_raw(narrow, chunked(bytes(15_000), bytes(15_000)), seconds=0.3)
    assert found.startswith(b"HTTP/1.1 413") and b"more than 20,000 bytes" in found


def test_a_body_in_chunks_is_an_image_too(port, images):
    data = encoded(images[0])
    found = sent_raw(port, chunked(data[:50], data[50:]) + b"0\r\n\r\n", seconds=0.3)
    assert found.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("side", "status"), [(300, 200), (301, 413)])
def test_pixels_are_counted_before_they_are_decoded(narrow, side, status):
    found = asked(narrow, body=encoded(Image.new("RGB", (300, side))), content_type="image/png")
    assert found.status == status
    if status == 413:
        assert found.content["error"] == "image 1: has 300 x 301 pixels; at most 90,000 are allowed"


def test_more_images_than_a_request_may_have_are_refused(narrow, images):
    found = predicted(narrow, *[("a.png", encoded(images[0]))] * 4)
    assert found.status == 413 and "more than 3 images" in found.content["error"]


@pytest.mark.parametrize("begin", [b"", b"POST /predict HTTP/1.1\r\nHost: loc"])
def test_a_head_that_does_not_come_is_not_waited_for(narrow, begin):
    begun = time.monotonic()
    found = sent_raw(narrow, begin)
    assert found.startswith(b"HTTP/1.1 408") and b"head took more than 0.5 s" in found and time.monotonic() - begun < 5


def test_a_body_that_does_not_come_is_not_waited_for(narrow):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\n"
    found = sent_raw(narrow, head + b"x", seconds=1)
    assert found.startswith(b"HTTP/1.1 408") and b"took more than 0.5 s to arrive" in found


def test_bodies_that_are_too_much_together_are_refused(narrow, monkeypatch):
    from cifar_hapi.serving.body import BodyReceiver

    received, check = threading.Event(), BodyReceiver._check

    def checked(self, size):  # what follows it, up to the next chunk, is done before another request is looked at
        if size == 18_000:
            received.set()
        check(self, size)

    monkeypatch.setattr(BodyReceiver, "_check", checked)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 19000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", narrow), timeout=5) as slow:
        slow.sendall(head + bytes(18_000))
        assert received.wait(5)
        found = sent_raw(narrow, head + bytes(19_000), seconds=0.2)
        assert found.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in found and b"being received" in found
        assert slow.recv(20).startswith(b"HTTP/1.1 408")
    found = asked(narrow, body=bytes(19_000), content_type="image/png")
    assert found.status == 415  # there is room again


def test_connections_are_counted(narrow):
    held = [socket.create_connection(("127.0.0.1", narrow), timeout=5) for _ in range(6)]
    try:
        found = sent_raw(narrow, b"")
        assert found.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in found and b"too many connections" in found
    finally:
        for each in held:
            each.close()


def blocking(monkeypatch):
    """Make the network wait until the event that is given back is set."""
    go = threading.Event()
    from cifar_hapi.serving import classifier

    honest = classifier.probabilities_of

    def waits(model, images, *arguments):
        if not (images == 128).all():  # what makes the network ready
            assert go.wait(30)
        return honest(model, images, *arguments)

    monkeypatch.setattr(classifier, "probabilities_of", waits)
    return go


def test_a_full_queue_is_told_with_when_to_come_again(run, images, monkeypatch):
    from cifar_hapi.serving.batching import Batcher

    go, submitted, submit = blocking(monkeypatch), threading.Semaphore(0), Batcher.submit
    monkeypatch.setattr(Batcher, "submit", lambda self, image: submitted.release() or submit(self, image))
    file = ("a.png", encoded(images[0]))
    with served(run, batch=1, images=2, queue=3) as port, ThreadPoolExecutor(4) as clients:
        waiting = [clients.submit(predicted, port, file) for _ in range(3)]
        assert all(submitted.acquire(timeout=10) for _ in waiting)
        assert asked(port, "/healthz").content["waiting"] == 3
        refused = predicted(port, file)
        go.set()
        assert [each.result().status for each in waiting] == [200] * 3
        assert predicted(port, file).status == 200
    assert refused.status == 503 and refused.headers["retry-after"] == "1"
    assert refused.content["error"] == "too many images are waiting; try again"


def test_an_answer_that_does_not_come_is_not_waited_for(run, images, monkeypatch):
    go = blocking(monkeypatch)
    with served(run, batch=1, wait_seconds=0.2) as port:
        found = predicted(port, ("a.png", encoded(images[0])))
        go.set()
        assert found.status == 503 and "no answer within 0.2 s" in found.content["error"]
        assert asked(port, "/healthz").content["waiting"] == 0


def test_a_failure_of_ours_is_told_on_the_terminal_and_hidden_from_strangers(run, images, monkeypatch, capfd):
    with served(run, batch=1) as port:
        from cifar_hapi.serving import classifier

        monkeypatch.setattr(classifier, "probabilities_of", lambda *arguments: 1 / 0)
        found = predicted(port, ("secret name.png", encoded(images[0])))
        assert found.status == 500 and found.content == {"error": "the server failed; its terminal says how"}
        monkeypatch.undo()
        assert predicted(port, ("a.png", encoded(images[0]))).status == 200
    said = capfd.readouterr().err
    assert "ZeroDivisionError" in said and "secret" not in said


def test_a_pipelined_request_is_answered_in_its_turn(port, images):
    data = encoded(images[0])
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(
        data
    )
    found = sent_raw(port, (head + data) * 2 + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert found.count(b"HTTP/1.1 200 OK") == 3 and json.loads(found[found.rindex(b"{") :])["status"] == "ok"


def test_kept_connections_do_not_wait_for_acknowledgements(monkeypatch, run):
    seen, honest = [], GuardedProtocol.connection_made

    def made(self, transport):
        seen.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        honest(self, transport)

    monkeypatch.setattr(GuardedProtocol, "connection_made", made)
    with served(run, batch=1) as port:
        asked(port, "/healthz")
    assert seen and all(seen)
