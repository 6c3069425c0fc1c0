"""The stack that Oneiro replaces, as its documents describe it and tuned as far as its own manuals teach: Django stores the
upload and enqueues one Celery task per dream image, Pillow makes the same three JPEG variants, Channels tells the browser.

    uvicorn peer:application --port PORT      celery -A peer worker --pool prefork --concurrency 2

Environment: PEER_REDIS (URL), PEER_DIR (database and pictures), PEER_SECRET (of the tokens). Only scripts/bench-whole starts it.
"""

import json
import os
import time
from pathlib import Path

import django
import jwt
from asgiref.sync import async_to_sync
from celery import Celery
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.db import connection, models, transaction
from django.db.models import F
from PIL import Image as Pillow
from PIL import ImageOps

REDIS, FOLDER, SECRET = os.environ["PEER_REDIS"], Path(os.environ["PEER_DIR"]), os.environ["PEER_SECRET"]
VARIANTS = {"large": 2048, "medium": 1024, "small": 320}

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=SECRET,
    USE_TZ=True,
    INSTALLED_APPS=[],
    MIDDLEWARE=[],
    FILE_UPLOAD_TEMP_DIR=str(FOLDER),
    DATA_UPLOAD_MAX_MEMORY_SIZE=64 << 20,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": FOLDER / "peer.sqlite3",
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                "timeout": 30,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
        }
    },
    CHANNEL_LAYERS={
        "default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [REDIS]}}
    },
)
django.setup()

from django.http import JsonResponse  # noqa: E402  (needs the settings)
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path, re_path  # noqa: E402

celery = Celery("peer", broker=REDIS)
# Late acknowledgement, so that a killed worker loses nothing, as Oneiro promises; no results are kept.
celery.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, task_ignore_result=True)


class Dream(models.Model):
    title = models.TextField()
    content = models.TextField()
    status = models.CharField(max_length=20, default="processing")
    waiting = models.IntegerField(default=0)

    class Meta:
        app_label = "peer"


class Photo(models.Model):
    dream = models.ForeignKey(Dream, models.CASCADE, related_name="photos")
    position = models.IntegerField()
    original = models.TextField()
    url = models.TextField(default="")

    class Meta:
        app_label = "peer"


def create_tables():
    with connection.schema_editor() as editor:
        editor.create_model(Dream)
        editor.create_model(Photo)


def send_image_update(dream, images):
    """What the documents call the publisher's side."""
    event = {
        "type": "image_update",
        "dream_id": dream.id,
        "status": dream.status,
        "images": images,
        "timestamp": time.time(),
    }
    async_to_sync(get_channel_layer().group_send)(f"dream_images_{dream.id}", {"type": "tell", "event": event})


@celery.task(bind=True, max_retries=3)
def process_image(self, photo_id):
    photo = Photo.objects.get(id=photo_id)
    folder = FOLDER / "media" / str(photo.id)
    folder.mkdir(parents=True, exist_ok=True)
    with Pillow.open(photo.original) as image:
        # Pillow's fast path: the decoder scales while it decodes.
        image.draft("RGB", (2 * VARIANTS["large"], 2 * VARIANTS["large"]))
        image = ImageOps.exif_transpose(image).convert("RGB")
        for name, edge in VARIANTS.items():
            image.thumbnail((edge, edge), Pillow.Resampling.LANCZOS)
            image.save(folder / f"{name}.jpg", quality=82)
    with transaction.atomic():
        Photo.objects.filter(id=photo.id).update(url=f"/media/{photo.id}/large.jpg")
        Dream.objects.filter(id=photo.dream_id).update(waiting=F("waiting") - 1)
        dream = Dream.objects.get(id=photo.dream_id)
        is_last = dream.waiting == 0
        if is_last:
            dream.status = "completed"
            dream.save(update_fields=["status"])
    if is_last:
        send_image_update(dream, pictures(dream))


def pictures(dream):
    return list(dream.photos.order_by("position").values("id", "url", "position"))


def user_of(token):
    return jwt.decode(token.removeprefix("Bearer "), SECRET, algorithms=["HS256"])["user_id"]


def dreams(request):
    user_of(request.headers["Authorization"])
    with transaction.atomic():
        dream = Dream.objects.create(title=request.POST["title"], content=request.POST["content"])
        photos = []
        for field, upload in request.FILES.items():
            meta = json.loads(request.POST[field.replace("imageFile_", "imageMetadata_")])
            original = FOLDER / f"original-{dream.id}-{field}"
            with original.open("wb") as file:
                for chunk in upload.chunks():
                    file.write(chunk)
            photos.append(Photo(dream=dream, position=meta["position"], original=str(original)))
        Photo.objects.bulk_create(photos)
        Dream.objects.filter(id=dream.id).update(waiting=len(photos))
    for photo in photos:
        process_image.delay(photo.id)
    status = {"status": "processing", "websocket_url": f"/ws/dream-images/{dream.id}/", "images": []}
    return JsonResponse({"id": dream.id, "title": dream.title, "images": [], "images_status": status}, status=201)


urlpatterns = [path("api/dreams/", dreams)]


class DreamImages(AsyncJsonWebsocketConsumer):
    async def connect(self):
        await self.accept()

    async def receive_json(self, message):
        if message["type"] != "authenticate":
            return
        user_of(message["token"])
        dream_id = int(self.scope["url_route"]["kwargs"]["dream_id"])
        await self.channel_layer.group_add(f"dream_images_{dream_id}", self.channel_name)
        await self.send_json({"type": "connection_established", "dream_id": str(dream_id)})
        # The present state, so that a page which connects late sees it, too.
        dream = await Dream.objects.aget(id=dream_id)
        images = [photo async for photo in dream.photos.order_by("position").values("id", "url", "position")]
        event = {"type": "image_update", "dream_id": dream_id, "status": dream.status, "timestamp": time.time()}
        await self.send_json(event | {"images": images if dream.status == "completed" else []})

    async def tell(self, message):
        await self.send_json(message["event"])


application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([re_path(r"^ws/dream-images/(?P<dream_id>\d+)/$", DreamImages.as_asgi())]),
    }
)
