"""LangChain with OpenAI's format."""

from driving import ENDPOINT, KEY, MODEL, URL
from langchain_openai import ChatOpenAI
from langchain_session import session

session(ChatOpenAI(model=MODEL, base_url=f"{URL}/v1", api_key=KEY, use_responses_api=ENDPOINT == "responses"))
