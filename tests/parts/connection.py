"""A login on the homeserver: requests by hand, device keys, and the identity that vouches for them."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import nio
from nio.store import SqliteMemoryStore
from yarl import URL

from tests.parts.identity import Identity
from tests.parts.synapse import CLIENT_API, Account, MatrixRefused, Synapse


class Connection:
    """One account's login from one device, on stock ``nio`` with a store in memory."""

    def __init__(self, synapse: Synapse, account: Account) -> None:
        self.synapse = synapse
        self.account = account
        config = nio.AsyncClientConfig(store=SqliteMemoryStore, encryption_enabled=True, store_sync_tokens=False)
        self._client = nio.AsyncClient(synapse.url, account.user_id, config=config)
        self._http = aiohttp.ClientSession()

    @property
    def user_id(self) -> str:
        return self.account.user_id

    @property
    def device_id(self) -> str:
        return str(self._client.device_id)

    @property
    def access_token(self) -> str:
        return str(self._client.access_token)

    @property
    def curve25519(self) -> str:
        """This device's public identity key."""
        return str(self._client.olm.account.identity_keys["curve25519"])

    async def close(self) -> None:
        """Close the connections. The device stays on the server."""
        await self._client.close()
        await self._http.close()

    async def call(self, method: str, path: str, body: object | None = None) -> dict[str, Any]:
        """A request by hand; ``path`` is below ``/_matrix/client/v3``. Raises MatrixRefused."""
        data = None if body is None else json.dumps(body).encode()
        return dict(json.loads(await self.request(method, CLIENT_API + path, data)))

    async def request(
        self, method: str, path: str, data: bytes | None = None, content_type: str = "application/json"
    ) -> bytes:
        """A request by hand, in bytes. Raises MatrixRefused."""
        headers = {"Authorization": f"Bearer {self.access_token}", "Content-Type": content_type}
        url = URL(self.synapse.url + path, encoded=True)
        async with self._http.request(method, url, data=data, headers=headers) as response:
            answer = await response.read()
            if response.status >= 400:
                raise MatrixRefused.read(response.status, answer)
            return answer

    # --- login and identity ------------------------------------------------------------------------------------------

    async def log_in(self, device_name: str) -> None:
        """Log in and publish the device's keys."""
        answer = await self._client.login(self.account.password, device_name)
        if not isinstance(answer, nio.LoginResponse):
            raise TypeError(f"{self.user_id} could not log in: {answer}")
        await self._client.keys_upload()

    async def publish_identity(self, identity: Identity) -> None:
        """Upload the three cross-signing keys; where others stand already, the password confirms the change."""
        body = identity.upload_body()
        try:
            await self.call("POST", "/keys/device_signing/upload", body)
        except MatrixRefused as refused:
            if refused.status != 401:
                raise
            user = {"type": "m.id.user", "user": self.user_id}
            proof = {"type": "m.login.password", "identifier": user, "password": self.account.password}
            auth = {**proof, "session": refused.answer["session"]}
            await self.call("POST", "/keys/device_signing/upload", body | {"auth": auth})

    async def sign_own_device(self, identity: Identity) -> None:
        answer = await self.call("POST", "/keys/query", {"device_keys": {self.user_id: [self.device_id]}})
        signed = identity.sign_device(answer["device_keys"][self.user_id][self.device_id])
        answer = await self.call("POST", "/keys/signatures/upload", {self.user_id: {self.device_id: signed}})
        if answer.get("failures"):
            raise RuntimeError(f"The server refused the signature: {answer['failures']}")
