{% set scalars = ['user_id', 'created_at'] %}
with landed as (
    select
        *,
        case when read_error is null then cast(raw as json) end as came,
        {{ given_attributes('came') }} as given
    from {{ source('landed', 'users') }}
),

extracted as (
    select
        *,
        coalesce(
            list_has_any(json_type(came, ['$.{{ scalars | join("', '$.") }}']), ['OBJECT', 'ARRAY']), false
        ) as has_wrong_type,
        {{ trimmed("(came ->> '$.user_id')") }} as user_id,
        {{ trimmed("(came ->> '$.created_at')") }} as created_at_came,
        {{ attributes('came', 'given', scalars) }} as attributes
    from landed
)

select
    arrival_hour,
    source,
    file,
    row_number,
    user_id,
    {{ utc_time('created_at_came') }} as created_at,
    {{ plain_attributes('attributes') }} as attributes,
    raw,
    case
        when read_error is not null then read_error
        when has_wrong_type then 'wrong_type'
        when {{ is_oversized(['user_id']) }} then 'oversized_id'
        when created_at_came is not null and {{ utc_time('created_at_came') }} is null then 'unusable_time'
    end as reason
from extracted
