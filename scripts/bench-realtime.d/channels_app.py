"""The socket server of Django Channels: one consumer, two groups a connection. Served by Daphne or uvicorn.

CHANNEL_LAYER is `core` (channels_redis' default, a sorted set per process) or `pubsub`; REDIS_URL and JWT_SECRET as for Oneiro.
"""
import os
from urllib.parse import parse_qs

import django
import jwt
from django.conf import settings

LAYERS = {
    "core": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}
settings.configure(
    ALLOWED_HOSTS=["*"],
    SECRET_KEY=os.environ["JWT_SECRET"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": LAYERS[os.environ["CHANNEL_LAYER"]],
            "CONFIG": {"hosts": [os.environ["REDIS_URL"]]},
        }
    },
)
django.setup()

from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402: needs the settings
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402


class Consumer(AsyncJsonWebsocketConsumer):
    async def connect(self):
        token = parse_qs(self.scope["query_string"].decode())["token"][0]
        user = jwt.decode(token, settings.SECRET_KEY, algorithms=["HS256"])["user_id"]
        self.joined = ["alerts", f"user_{user}"]
        for group in self.joined:
            await self.channel_layer.group_add(group, self.channel_name)
        await self.accept()
        await self.send_json({"type": "ready"})

    async def disconnect(self, code):
        for group in getattr(self, "joined", []):
            await self.channel_layer.group_discard(group, self.channel_name)

    async def event(self, message):
        await self.send_json(message["event"])


application = ProtocolTypeRouter(
    {"http": get_asgi_application(), "websocket": URLRouter([path("ws/", Consumer.as_asgi())])}
)
