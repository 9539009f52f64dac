"""LangChain with Anthropic's format."""

from driving import KEY, MODEL, URL
from langchain_anthropic import ChatAnthropic
from langchain_session import session

session(ChatAnthropic(model=MODEL, base_url=URL, api_key=KEY, max_tokens=500))
