"""The five endpoints as tools of the Model Context Protocol, asked by its own client."""

import asyncio
import json

import pytest
from pages import serving

from dit_lab.models import count, preset

mcp = pytest.importorskip("mcp")
ENDPOINTS = {"sample", "attention", "contributions", "list_checkpoints", "count"}


@pytest.fixture(scope="module")
def asked():
    """What the tools are, by name, and what each of some calls came to: `(is it an error, text)`."""
    from mcp.client.streamable_http import streamablehttp_client

    calls = [
        ("list_checkpoints", {}),
        ("count", {"preset": "DiT-S/4"}),
        ("sample", {"checkpoint": "mnist", "label": 7, "steps": 3}),
        ("sample", {"checkpoint": "nowhere", "label": 7}),
    ]

    async def talk(url):
        address = f"{url}/gradio_api/mcp/"
        async with streamablehttp_client(address) as (get, put, _), mcp.ClientSession(get, put) as client:
            await client.initialize()
            tools = {tool.name.rpartition("lab_")[2]: tool for tool in (await client.list_tools()).tools}
            answers = [await client.call_tool(tools[name].name, given) for name, given in calls]
            return tools, [(answer.isError, answer.content[0].text) for answer in answers]

    with serving("--mcp", "--checkpoint", "mnist") as url:
        return asyncio.run(talk(url))


def test_the_five_endpoints_are_tools_that_say_what_they_take(asked):
    tools, _ = asked
    assert set(tools) == ENDPOINTS
    taken = tools["sample"].inputSchema["properties"]
    assert taken["label"]["type"] == "integer" and taken["checkpoint"]["description"]


def test_they_answer_as_the_library_does_and_refuse_in_a_sentence(asked):
    _, [listed, counted, drawn, refused] = asked
    assert not listed[0] and "mnist" in listed[1]
    assert not counted[0] and str(count(preset("DiT-S/4")).macs) in counted[1]
    assert not drawn[0] and "data:image/png;base64," in json.dumps(drawn[1])
    assert refused[0] and "This app serves mnist, not 'nowhere'." in refused[1]
