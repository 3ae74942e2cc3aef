// The official clients of OpenAI and Anthropic for Node against a gateway: node.mjs ADDRESS KEY. See python.py.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';

const [address, apiKey] = process.argv.slice(2);
const openai = new OpenAI({ baseURL: `http://${address}/v1`, apiKey, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: `http://${address}`, apiKey, maxRetries: 0 });
const messages = [{ role: 'user', content: 'Hello there' }];
const asked = [{ role: 'user', content: 'How is the weather in Rome?' }];
const schema = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
const demo = 'Hello! You wrote: “Hello there”.';

const whole = await openai.chat.completions.create({ model: 'main', messages });
assert.equal(whole.choices[0].message.content, 'Hello there');
let text = '';
for await (const chunk of await openai.chat.completions.create({ model: 'demo', messages, stream: true })) {
  text += chunk.choices[0]?.delta.content ?? '';
}
assert.ok(text.startsWith(demo), text);
await assert.rejects(openai.chat.completions.create({ model: 'nobody', messages }), { status: 404 });

const tools = [{ type: 'function', function: { name: 'weather', parameters: schema } }];
const called = await openai.chat.completions.stream({ model: 'tools', messages: asked, tools }).finalChatCompletion();
const [call] = called.choices[0].message.tool_calls;
assert.deepEqual([call.function.name, JSON.parse(call.function.arguments)], ['weather', { city: 'Rome' }]);
const told = [...asked, called.choices[0].message, { role: 'tool', tool_call_id: call.id, content: 'sunny' }];
const last = await openai.chat.completions.create({ model: 'tools', messages: told, tools });
assert.equal(last.choices[0].message.content, 'It is sunny.');

assert.equal((await openai.responses.create({ model: 'main', input: 'Hello there' })).output_text, 'Hello there');
const kinds = [];
for await (const event of await openai.responses.create({ model: 'demo', input: 'Hello there', stream: true })) {
  kinds.push(event.type);
}
assert.deepEqual([kinds[0], kinds.at(-1)], ['response.created', 'response.completed']);

const streamed = anthropic.messages.stream({ model: 'demo', max_tokens: 100, messages });
assert.ok((await streamed.finalText()).startsWith(demo));
const used = await anthropic.messages.create({
  model: 'tools', max_tokens: 100, messages: asked, tools: [{ name: 'weather', input_schema: schema }],
});
assert.deepEqual([used.stop_reason, used.content.at(-1).input], ['tool_use', { city: 'Rome' }]);
await assert.rejects(anthropic.messages.create({ model: 'nobody', max_tokens: 1, messages }), { status: 404 });
console.log('ok');
