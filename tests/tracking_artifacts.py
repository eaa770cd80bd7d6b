"""The part of the W&B server for artifacts: versions by their content, uploads, uses, and downloads."""

# ruff: noqa: N802, N803  # methods and arguments have the names of W&B's queries

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

ENTITY, PROJECT = "somebody", "igpt"


@dataclass
class Version:
    """A version of an artifact, made by the run `made_by`; `used_by` are names of runs."""

    id: str
    name: str
    type: str
    index: int
    digest: str
    made_by: str
    seconds: int | None
    aliases: set[str]
    metadata: dict[str, Any]
    used_by: set[str] = field(default_factory=set)
    committed: bool = False


class Artifacts:
    """Answers queries about artifacts. `refuses` makes uploads of their files fail."""

    refuses = False

    def __init__(self) -> None:
        self.url = ""
        self.versions: list[Version] = []
        self.content: dict[str, bytes] = {}  # by the path that it was uploaded to

    def named(self, name: str) -> Version:
        """The version NAME, the only one of this name, or NAME:ALIAS."""
        (found,) = [each for each in self.versions if each.committed and self._is_called(each, name)]
        return found

    def of_type(self, kind: str) -> list[Version]:
        return [each for each in self.versions if each.committed and each.type == kind]

    def manifest(self, version: Version) -> dict[str, Any]:
        """Entries by their paths."""
        return json.loads(self.content[f"/store/{version.id}/manifest"])["contents"]

    def upload(self, path: str, content: bytes) -> int:
        """Take a file; the status of the answer."""
        if self.refuses:
            return 403
        self.content[path] = content
        return 200

    def download(self, path: str) -> bytes | None:
        """A file by its path, or by the MD5 in it, as the client asks for the files of an artifact."""
        digest = re.search(r"/([0-9a-f]{32})(?:/|$)", path)
        by_digest = {hashlib.md5(each).hexdigest(): each for each in self.content.values()} if digest else {}
        return self.content.get(path) if digest is None else by_digest.get(digest[1])

    def query(self, name: str, given: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a query of this name; None if it is about something else."""
        answer = getattr(self, f"_{name}", None)
        return None if answer is None else answer(**given.get("input", given))

    def _is_called(self, version: Version, name: str) -> bool:
        name, _, alias = name.partition(":")
        return version.name == name and (not alias or alias in {f"v{version.index}", *version.aliases})

    def _by_id(self, artifact_id: str) -> Version:
        return next(each for each in self.versions if each.id == artifact_id)

    def _CreateArtifact(self, digest: str, **given: Any) -> dict[str, Any]:
        names = given.get("artifactCollectionNames") or [given["artifactCollectionName"]]
        same_name = [each for each in self.versions if each.name == names[0]]
        version = next((each for each in same_name if each.digest == digest), None)
        if version is None:
            version = Version(
                f"artifact{len(self.versions)}", names[0], given["artifactTypeName"], len(same_name), digest,
                given["runName"], given.get("ttlDurationSeconds"), set(), json.loads(given.get("metadata") or "{}"),
            )  # fmt: skip
            self.versions.append(version)
        for alias in given.get("aliases") or ():
            for each in same_name:
                each.aliases.discard(alias["alias"])
            version.aliases.add(alias["alias"])
        state = "COMMITTED" if version.committed else "PENDING"
        made = {"id": version.id, "state": state, "artifactSequence": {"latestArtifact": {"id": version.id}}}
        return {"createArtifact": {"artifact": made}}

    def _CreateArtifactManifest(self, artifactID: str, **_: Any) -> dict[str, Any]:
        return {"createArtifactManifest": {"artifactManifest": self._manifest_file(artifactID)}}

    def _UpdateArtifactManifest(self, artifactManifestID: str, **_: Any) -> dict[str, Any]:
        return {"updateArtifactManifest": {"artifactManifest": self._manifest_file(artifactManifestID)}}

    def _manifest_file(self, artifact_id: str) -> dict[str, Any]:
        url = f"{self.url}/store/{artifact_id}/manifest"
        return {"id": artifact_id, "file": {"id": "f", "uploadUrl": url, "uploadHeaders": []}}

    def _CreateArtifactFiles(self, artifactFiles: list[dict[str, Any]], **_: Any) -> dict[str, Any]:
        nodes = [
            {
                "storagePath": f"store/{file['artifactID']}/{file['name']}",
                "uploadUrl": f"{self.url}/store/{file['artifactID']}/{file['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in artifactFiles
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _CommitArtifact(self, artifactID: str) -> dict[str, Any]:
        version = self._by_id(artifactID)
        version.committed = True
        return {"commitArtifact": {"artifact": {"id": version.id, "digest": version.digest}}}

    def _UseArtifact(self, artifactID: str, runName: str, **_: Any) -> dict[str, Any]:
        self._by_id(artifactID).used_by.add(runName)
        return {"useArtifact": {"artifact": {"id": artifactID}}}

    def _ArtifactType(self, name: str, **_: Any) -> dict[str, Any]:
        kinds = {each.name: each.type for each in self.versions}
        kind = kinds.get(name.partition(":")[0])
        return {"project": {"artifact": kind and {"artifactType": {"name": kind}}}}

    def _ArtifactByID(self, id: str) -> dict[str, Any]:
        return {"artifact": self._described(self._by_id(id))}

    def _ArtifactMembershipByName(self, entity: str, project: str, name: str) -> dict[str, Any]:
        if (entity, project) != (ENTITY, PROJECT):
            return {"project": None}
        found = [each for each in self.versions if each.committed and self._is_called(each, name)]
        member = found and {
            "__typename": "ArtifactCollectionMembership", "id": "m", "versionIndex": found[0].index,
            "createdAt": "2026-01-01T00:00:00Z", "aliases": self._aliases(found[0]),
            "artifactCollection": self._collection(found[0]), "artifact": self._described(found[0]),
        }  # fmt: skip
        return {"project": {"artifactCollectionMembership": member or None}}

    def _FetchArtifactManifest(self, id: str) -> dict[str, Any]:
        file = {"directUrl": f"{self.url}/store/{id}/manifest"}
        return {"artifact": {"currentManifest": {"file": file}}}

    def _aliases(self, version: Version) -> list[dict[str, Any]]:
        collection = self._collection(version)
        return [{"id": "a", "alias": alias, "artifactCollection": collection} for alias in sorted(version.aliases)]

    def _collection(self, version: Version) -> dict[str, Any]:
        project = {"id": "p", "internalId": "p", "name": PROJECT, "entity": {"name": ENTITY}}
        return {"__typename": "ArtifactSequence", "id": "c", "name": version.name, "project": project}

    def _described(self, version: Version) -> dict[str, Any]:
        return {
            "__typename": "Artifact", "id": version.id, "artifactSequence": self._collection(version),
            "versionIndex": version.index, "artifactType": {"name": version.type}, "description": None,
            "metadata": json.dumps(version.metadata), "ttlDurationSeconds": version.seconds or -2,
            "ttlIsInherited": version.seconds is None, "tags": [], "historyStep": None, "state": "COMMITTED",
            "size": 0, "digest": version.digest, "commitHash": None, "fileCount": 1,
            "createdAt": "2026-01-01T00:00:00Z", "updatedAt": None, "aliases": self._aliases(version),
        }  # fmt: skip
