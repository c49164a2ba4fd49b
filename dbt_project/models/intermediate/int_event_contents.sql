-- A view, and of whole rows: a join of it with outcomes then holds the outcomes in memory, and the contents pass by.
{{ config(materialized='view') }}
{% set columns %}
    arrival_hour, source, file, row_number, user_id, item_id, event_type, event_ts, value, text, session_id, attributes,
    deleted, raw
{% endset %}
select {{ columns }}
from {{ ref('int_events_unioned') }}
union all
select {{ columns }}
from {{ source('lake', 'int_event_history') }}
where
    arrival_hour not in (select arrival_hour from {{ ref('int_event_batches') }})
    and event_key is not null
    and (user_id is null or user_id in (select user_id from {{ ref('int_touched_users') }}))
